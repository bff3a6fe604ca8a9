/** Recent requests: what each of them took its time for. */

import { element } from "../element";
import type { RequestTimes, StatusAnswer } from "./answers";
import { stackedBar } from "./bars";
import { type Part, setText } from "./rows";
import { type Column, table } from "./table";
import { clock, count, duration, NOTHING, shareOf } from "../units";

export const PHASES = [
  { name: "load", colour: "k3" },
  { name: "queue", colour: "k2" },
  { name: "prefill", colour: "k1" },
  { name: "decode", colour: "k4" },
  { name: "other", colour: "k0" },
] as const;

/** Requests that are kept, although the server has forgotten them. */
const MOST = 200;

/** Add newer requests to those that are known, the newest first. */
export function merged(known: readonly RequestTimes[], more: readonly RequestTimes[]): RequestTimes[] {
  const all = new Map([...known, ...more].map((r) => [keyOf(r), r]));
  return [...all.values()].sort((a, b) => b.time - a.time).slice(0, MOST);
}

/** A client can choose its requests' ids, so these need not be unique. */
function keyOf(r: RequestTimes): string {
  return `${r.time} ${r.id}`;
}

/** Return the durations as a text: prefill 1.24 s, decode 380 ms. */
export function breakdown(r: RequestTimes): string {
  const parts = PHASES.filter(({ name }) => r[name] >= 0.05).map(({ name }) => `${name} ${duration(r[name])}`);
  return parts.join(", ") || duration(r.total);
}

/** Make the table with its legend and its filter. */
export function requests(): Part<StatusAnswer> {
  let all: RequestTimes[] = [];
  let longest = 0;
  const columns: Column<RequestTimes>[] = [
    { head: "Time", text: (r) => clock(r.time), sortBy: (r) => r.time },
    { head: "Total", kind: "number", text: (r) => duration(r.total), sortBy: (r) => r.total },
    {
      head: "Spent on",
      kind: "stack",
      draw: (cell) => {
        const bar = stackedBar(PHASES);
        cell.append(bar.element);
        return (r) => {
          const label = breakdown(r);
          bar.update(PHASES.map(({ name }) => r[name]), longest, label);
          if (bar.element.title !== label) bar.element.title = label;
        };
      },
    },
    { head: "Why", text: (r) => r.why },
    { head: "Prompt", kind: "number", text: (r) => count(r.prompt_tokens) },
    { head: "Cached", kind: "number", text: (r) => shareOf(r.cached_tokens, r.prompt_tokens) },
    { head: "Output", kind: "number", text: (r) => count(r.completion_tokens) },
    { head: "Drafts", kind: "number", text: (r) => shareOf(r.accepted_tokens, r.drafted_tokens) },
    {
      head: "Finish",
      draw: (cell) => {
        const mark = element("span");
        cell.append(mark);
        return (r) => {
          setText(mark, r.status < 400 || r.reason === "cancelled" ? r.reason : `${r.reason} ${r.status}`);
          mark.className = `finish ${r.reason}`;
        };
      },
    },
    { head: "Route", text: (r) => r.route },
    { head: "Client", text: (r) => r.client || NOTHING },
  ];
  const shown = table("Recent requests", columns, keyOf, "No request has finished yet.");
  const hidesPage = element("input", { type: "checkbox", id: "hide-page" });
  const number = element("span", { className: "soft" });

  function show(): void {
    const kept = hidesPage.checked ? all.filter((r) => !r.is_low) : all;
    longest = Math.max(0, ...kept.map((r) => r.total));
    shown.update(kept);
    setText(number, kept.length === all.length ? "" : `${count(all.length - kept.length)} hidden`);
  }
  hidesPage.addEventListener("change", show);

  const legend = PHASES.map(({ name, colour }) =>
    element("span", { className: "legend" }, element("i", { className: colour }), name),
  );
  const tools = element(
    "div",
    { className: "tools" },
    ...legend,
    element("label", { htmlFor: "hide-page" }, hidesPage, " hide this page's requests"),
    number,
  );
  shown.element.classList.add("requests");
  return {
    element: element("div", {}, tools, shown.element),
    update: (status) => {
      all = merged(all, status.requests);
      show();
    },
  };
}
