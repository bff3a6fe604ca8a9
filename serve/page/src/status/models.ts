/** The models: state, memory, devices, slots and upstreams, with buttons to load and unload. */

import { element } from "../element";
import { json, ServerError } from "../server";
import type { DeviceHealth, ServedModelStatus, SlotStatus, StatusAnswer, UpstreamHealth } from "./answers";
import { meter, stackedBar } from "./bars";
import { KeyedParts, type Part, setText } from "./rows";
import { type Column, table } from "./table";
import { bytes, count } from "../units";

const DEVICE_PARTS = [
  { name: "weights", colour: "k1" },
  { name: "KV cache", colour: "k4" },
  { name: "compute", colour: "k2" },
] as const;

const DEVICES: Column<DeviceHealth>[] = [
  { head: "Device", text: (d) => d.device },
  { head: "Description", text: (d) => d.description },
  { head: "Layers", kind: "number", text: (d) => `${count(d.layers)}${d.has_output ? " + output" : ""}` },
  { head: "Weights", kind: "number", text: (d) => bytes(d.weights) },
  { head: "KV cache", kind: "number", text: (d) => bytes(d.kv) },
  { head: "Compute", kind: "number", text: (d) => bytes(d.compute) },
  { head: "Free", kind: "number", text: (d) => bytes(d.free_after) },
  {
    head: "Use of free memory",
    kind: "stack",
    draw: (cell) => {
      const bar = stackedBar(DEVICE_PARTS);
      cell.append(bar.element);
      return (d) => {
        const whole = Math.max(d.free_before, d.weights + d.kv + d.compute);
        const label = `${bytes(d.weights + d.kv + d.compute)} of ${bytes(d.free_before)} that were free before`;
        bar.update([d.weights, d.kv, d.compute], whole, label);
        if (bar.element.title !== label) bar.element.title = label;
      };
    },
  },
];

const SLOTS: Column<SlotStatus>[] = [
  { head: "Slot", kind: "number", text: (s) => String(s.index) },
  { head: "Request", kind: "number", text: (s) => (s.request === undefined ? "free" : String(s.request)) },
  { head: "Cached", kind: "number", text: (s) => tokens(s, s.cached) },
  { head: "Prefilled", kind: "number", text: (s) => tokens(s, s.prefilled) },
  { head: "Decoded", kind: "number", text: (s) => tokens(s, s.decoded) },
  { head: "At most left", kind: "number", text: (s) => tokens(s, s.left) },
  { head: "Held in KV cache", kind: "number", text: (s) => count(s.held) },
];

const UPSTREAMS: Column<UpstreamHealth>[] = [
  { head: "Upstream", text: (u) => u.name },
  { head: "Engine", text: (u) => u.engine },
  {
    head: "State",
    draw: (cell) => {
      const mark = element("span");
      cell.append(mark);
      return (u) => {
        setText(mark, u.status);
        mark.className = `badge ${u.status}`;
      };
    },
  },
  { head: "In flight", kind: "number", text: (u) => `${count(u.in_flight)} of ${count(u.slots)}` },
  { head: "Requests", text: (u) => outcomes(u.outcomes) },
  { head: "Reason", text: (u) => u.reason ?? "" },
];

function tokens(slot: SlotStatus, n: number): string {
  return slot.request === undefined ? "" : count(n);
}

/** Return counts by outcome, the most frequent first: 5,120 done, 410 cancelled. */
export function outcomes(counts: Record<string, number>): string {
  const all = Object.entries(counts).filter(([, n]) => n);
  return all
    .sort((a, b) => b[1] - a[1])
    .map(([name, n]) => `${count(n)} ${name}`)
    .join(", ");
}

/** Return names and values of a model's facts; those without a value are left out. */
export function facts(m: ServedModelStatus): [string, string][] {
  const all: [string, string | undefined][] = [
    ["Type", m.type],
    ["Size", m.size ? bytes(m.size) : undefined],
    ["Context", m.context ? `${count(m.context)} tokens` : undefined],
    ["Fill-in-the-middle", m.fim_layout],
    ["Next edits", m.next_edit],
    ["Requests", `${count(m.running)} running, ${count(m.waiting)} waiting`],
    ["File", m.file],
    ["Certificate", m.certificate],
  ];
  return all.filter((fact): fact is [string, string] => !!fact[1]);
}

interface Shown {
  model: ServedModelStatus;
  isDefault: boolean;
  limit: number;
}

/** Make the list of models. */
export function models(): Part<StatusAnswer> {
  const list = element("div", { className: "models" });
  const cards = new KeyedParts<Shown>(list, (s) => s.model.name, ({ model }) => card(model.name));
  return {
    element: list,
    update: ({ models, default_model, machine }) =>
      cards.update(
        models.map((model) => ({
          model,
          isDefault: model.name === default_model && models.length > 1,
          limit: machine.model_memory_limit ?? 0,
        })),
      ),
  };
}

function card(name: string): Part<Shown> {
  const badge = element("span");
  const isDefault = element("span", { className: "soft" }, "default");
  const buttons = loadButtons(name);
  const reason = element("p", { className: "reason" });
  const list = element("dl", { className: "facts" });
  const rows = new KeyedParts<[string, string]>(list, ([term]) => term, ([term]) => {
    const value = element("dd");
    return {
      element: element("div", { className: term.toLowerCase() }, element("dt", {}, term), value),
      update: ([, text]) => setText(value, text),
    };
  });
  const memory = meter("Memory, prefix cache full");
  const devices = table(`Devices of ${name}`, DEVICES, (d) => d.device, "");
  const slots = table(`Slots of ${name}`, SLOTS, (s) => String(s.index), "");
  const upstreams = table(`Upstreams of ${name}`, UPSTREAMS, (u) => u.name, "");
  slots.element.classList.add("slots");
  const head = element("header", {}, element("h3", {}, name), badge, isDefault, ...buttons.elements);
  return {
    element: element(
      "article",
      { className: "model", attributes: { "aria-label": name } },
      head, reason, buttons.fault, list, memory.element, devices.element, upstreams.element, slots.element,
    ),
    update: ({ model: m, isDefault: is, limit }) => {
      setText(badge, m.status);
      badge.className = `badge ${m.status}`;
      isDefault.hidden = !is;
      setText(reason, m.reason ?? "");
      reason.hidden = !m.reason;
      rows.update(facts(m));
      memory.element.hidden = m.memory === undefined;
      const ofLimit = limit ? ` of the limit of ${bytes(limit)}` : "";
      memory.update(limit ? (m.memory ?? 0) / limit : undefined, `${bytes(m.memory ?? 0)}${ofLimit}`);
      for (const [part, items] of [[devices, m.devices], [upstreams, m.upstreams], [slots, m.slots]] as const) {
        (part.update as (items: readonly unknown[]) => void)(items ?? []);
        part.element.hidden = !items?.length;
      }
      buttons.update(m);
    },
  };
}

/** Make the buttons that load and unload a model, and the place of their error. */
function loadButtons(name: string): { elements: HTMLElement[]; fault: HTMLElement; update(m: ServedModelStatus): void } {
  const load = element("button", { type: "button", attributes: { "aria-label": `Load ${name}` } }, "Load");
  const unload = element("button", { type: "button", attributes: { "aria-label": `Unload ${name}` } }, "Unload");
  const fault = element("p", { className: "fault", hidden: true, attributes: { role: "alert" } });
  let isRunning = false;
  let state: ServedModelStatus["status"] = "unloaded";

  function show(): void {
    const isLoaded = state === "ok" || state === "stalled";
    load.disabled = isRunning || (state !== "unloaded" && state !== "failed");
    unload.disabled = isRunning || !isLoaded;
  }

  async function change(button: HTMLButtonElement, path: string, what: string): Promise<void> {
    isRunning = true;
    const label = button.textContent!;
    setText(button, what);
    fault.hidden = true;
    show();
    try {
      await json(path, { body: { model: name } });
    } catch (e) {
      fault.hidden = false;
      fault.textContent = e instanceof ServerError ? e.message : String(e);
    }
    isRunning = false;
    setText(button, label);
    show();
  }
  load.addEventListener("click", () => void change(load, "/models/load", "Loading…"));
  unload.addEventListener("click", () => void change(unload, "/models/unload", "Unloading…"));
  const box = element("span", { className: "buttons" }, load, unload);
  return {
    elements: [box],
    fault,
    update: (m) => {
      state = m.status;
      box.hidden = !!m.upstreams;
      show();
    },
  };
}
