/** The prefix cache, completions that users accepted, and the event log. */

import { element } from "../element";
import type { AcceptedShare, CachedPrefix, ServerEvent, StatusAnswer } from "./answers";
import { meter } from "./bars";
import { KeyedParts, type Part, setText } from "./rows";
import { type Column, table } from "./table";
import { bytes, clock, count, shareOf, span } from "../units";

/** Prefixes have no names, so a row stands for a place in the server's list. */
type ListedPrefix = CachedPrefix & { place: number };

const PREFIXES: Column<ListedPrefix>[] = [
  { head: "Tokens", kind: "number", text: (p) => count(p.tokens) },
  { head: "Size", kind: "number", text: (p) => bytes(p.bytes), sortBy: (p) => p.bytes },
  { head: "Age", kind: "number", text: (p) => span(p.age), sortBy: (p) => p.age },
  { head: "Last used", kind: "number", text: (p) => `${span(p.idle)} ago`, sortBy: (p) => -p.idle },
  { head: "Hits", kind: "number", text: (p) => count(p.hits), sortBy: (p) => p.hits },
];

/** Make the contents of each loaded model's prefix cache. */
export function prefixCaches(): Part<StatusAnswer> {
  interface Cache {
    name: string;
    prefixes: ListedPrefix[];
    used: number;
    limit: number;
  }
  const list = element("div");
  const none = element("p", { className: "none" }, "No loaded model has a prefix cache.");
  const parts = new KeyedParts<Cache>(list, (c) => c.name, ({ name }) => {
    const size = meter(name);
    const rows = table(`Prefix cache of ${name}`, PREFIXES, (p) => String(p.place), "It is empty.");
    return {
      element: element("div", { className: "cache" }, size.element, rows.element),
      update: (c) => {
        const ofLimit = c.limit ? ` of ${bytes(c.limit)}` : "";
        const n = `${count(c.prefixes.length)} ${c.prefixes.length === 1 ? "prefix" : "prefixes"}`;
        size.update(c.limit ? c.used / c.limit : undefined, `${bytes(c.used)}${ofLimit}, ${n}`);
        rows.update(c.prefixes);
      },
    };
  });
  return {
    element: element("div", {}, list, none),
    update: ({ models }) => {
      const caches = models
        .filter((m) => m.prefix_cache)
        .map((m) => ({
          name: m.name,
          prefixes: m.prefix_cache!.map((p, place) => ({ ...p, place })),
          used: m.prefix_cache_bytes ?? 0,
          limit: m.prefix_cache_limit ?? 0,
        }));
      parts.update(caches);
      none.hidden = caches.length > 0;
    },
  };
}

const ACCEPTED: Column<AcceptedShare>[] = [
  { head: "Client", text: (a) => a.client },
  { head: "Accepted", kind: "number", text: (a) => shareOf(a.accepted, a.shown), sortBy: (a) => a.accepted / (a.shown || 1) },
  { head: "Shown", kind: "number", text: (a) => count(a.shown), sortBy: (a) => a.shown },
  { head: "Taken", kind: "number", text: (a) => count(a.accepted) },
  { head: "Dismissed", kind: "number", text: (a) => count(a.dismissed) },
];

/** Make the table of completions that clients reported as shown and accepted. */
export function acceptedShares(): Part<StatusAnswer> {
  const rows = table("Accepted completions by client", ACCEPTED, (a) => a.client, "No client has reported yet; Tabby's do.");
  return { element: rows.element, update: ({ accepted }) => rows.update(accepted) };
}

/** Make the event log, the newest first. */
export function eventLog(): Part<StatusAnswer> {
  const list = element("ol", { className: "events", tabIndex: 0, attributes: { "aria-label": "Event log" } });
  const none = element("p", { className: "none" }, "Nothing has happened yet.");
  const parts = new KeyedParts<ServerEvent>(list, (e) => String(e.id), (e) => {
    const item = element(
      "li",
      { className: e.level },
      element("time", {}, clock(e.time)),
      element("span", { className: "event-level" }, e.level),
      element("span", {}, ...(e.model && !e.text.includes(e.model) ? [element("b", {}, e.model), " "] : []), e.text),
    );
    return { element: item, update: () => undefined };
  });
  return {
    element: element("div", {}, list, none),
    update: ({ events }) => {
      parts.update([...events].reverse());
      list.hidden = !events.length;
      none.hidden = events.length > 0;
    },
  };
}

/** Make the line about the server itself. */
export function serverLine(): Part<StatusAnswer> {
  const line = element("p", { className: "soft" });
  return {
    element: line,
    update: (s) => setText(line, `TurboPilot ${s.version}, running for ${span(s.time - s.started)}`),
  };
}
