/** The charts of the status view. */

import { element } from "../element";
import type { StatusSample } from "./answers";
import { chart, type ChartOptions } from "./chart";
import { count, duration, number, share } from "../units";

const CHARTS: readonly ChartOptions[] = [
  {
    title: "Requests",
    curves: [
      { name: "running", colour: "k1", valueOf: (s) => s.running },
      { name: "waiting", colour: "k2", valueOf: (s) => s.waiting },
    ],
    format: count,
    top: { least: 2 },
  },
  {
    title: "Prefill",
    curves: [{ name: "prefill", colour: "k1", valueOf: (s) => s.prefill_speed }],
    format: (value) => `${number(value)} tok/s`,
    top: { least: 100 },
  },
  {
    title: "Decode",
    curves: [{ name: "decode", colour: "k4", valueOf: (s) => s.decode_speed }],
    format: (value) => `${number(value)} tok/s`,
    top: { least: 10 },
  },
  {
    title: "Time to first token",
    curves: [{ name: "time", colour: "k2", valueOf: (s) => s.first_token_ms }],
    format: duration,
    top: { least: 100 },
  },
  {
    title: "Prompt from cache",
    curves: [{ name: "share", colour: "k4", valueOf: (s) => s.cached_share }],
    format: share,
    top: { fixed: 1 },
  },
  {
    title: "Accepted drafts",
    curves: [{ name: "share", colour: "k3", valueOf: (s) => s.accepted_share }],
    format: share,
    top: { fixed: 1 },
  },
];

/** Make all charts. The pointer inspects the same time in each of them. */
export function charts(): { element: HTMLElement; update(samples: readonly StatusSample[]): void } {
  const made = CHARTS.map((options) => chart(options, (time) => made.forEach((c) => c.inspect(time))));
  return {
    element: element("div", { className: "charts" }, ...made.map((c) => c.element)),
    update: (samples) => made.forEach((c) => c.update(samples)),
  };
}
