/** Load and memory of the machine, beside their limits. */

import { element } from "../element";
import type { StatusAnswer } from "./answers";
import { meter } from "./bars";
import { KeyedParts, type Part } from "./rows";
import { bytes, count, NOTHING } from "../units";

interface Quantity {
  name: string;
  share: number | undefined;
  text: string;
  /** Whether it should not become full. */
  isLimited: boolean;
}

/** Return what the machine's meters show. */
export function quantities({ machine, models, samples }: StatusAnswer): Quantity[] {
  const cpu = samples.at(-1)?.cpu;
  const used = machine.memory_total - machine.memory_free;
  const own = machine.process_memory === undefined ? "" : ` (server ${bytes(machine.process_memory)})`;
  const found: Quantity[] = [
    percentage(`CPU, ${count(machine.cores)} ${machine.cores === 1 ? "core" : "cores"}`, cpu),
    ofWhole("Memory", used, machine.memory_total, own),
  ];
  const loaded = models.filter((m) => m.memory !== undefined).reduce((sum, m) => sum + m.memory!, 0);
  if (machine.model_memory_limit) found.push(ofWhole("Models with full prefix caches", loaded, machine.model_memory_limit, ""));
  for (const gpu of machine.gpus) {
    found.push(percentage(gpu.name, gpu.load));
    found.push(ofWhole(`${gpu.name}: memory`, gpu.memory_total - gpu.memory_free, gpu.memory_total, ""));
  }
  return found;
}

function percentage(name: string, percent: number | undefined): Quantity {
  const isKnown = percent !== undefined;
  return { name, share: isKnown ? percent / 100 : undefined, text: isKnown ? `${Math.round(percent)} %` : NOTHING, isLimited: false };
}

function ofWhole(name: string, part: number, whole: number, more: string): Quantity {
  return { name, share: whole ? part / whole : undefined, text: `${bytes(part)} of ${bytes(whole)}${more}`, isLimited: true };
}

/** Make the meters. */
export function machine(): Part<StatusAnswer> {
  const box = element("div", { className: "meters" });
  const meters = new KeyedParts<[number, Quantity]>(box, ([i, q]) => `${i} ${q.name}`, ([, { name, isLimited }]) => {
    const made = meter(name, isLimited);
    return { element: made.element, update: ([, q]) => made.update(q.share, q.text) };
  });
  return { element: box, update: (status) => meters.update([...quantities(status).entries()]) };
}
