/** The status view: models, machine, charts and recent requests. */

import { element } from "../element";
import type { View } from "../tabs";
import type { StatusAnswer, StatusSample } from "./answers";
import { charts } from "./charts";
import { Feed, type FeedState } from "./feed";
import { acceptedShares, eventLog, prefixCaches, serverLine } from "./lists";
import { machine } from "./machine";
import { models } from "./models";
import { requests } from "./requests";
import { type Part, setText } from "./rows";
import { settings } from "./settings";
import { appended } from "./timeline";
import { clock } from "../units";

/** Fill the panel. It reads the server only while it is open. */
export function status(panel: HTMLElement): View {
  const drawn = charts();
  const about = serverLine();
  const sections: [string, Part<StatusAnswer>][] = [
    ["Models", models()],
    ["Recent requests: why was it slow?", requests()],
    ["Prefix cache", prefixCaches()],
    ["Accepted completions", acceptedShares()],
    ["Events", eventLog()],
  ];
  const load = machine();
  const contents = element(
    "div",
    { className: "status-contents", hidden: true },
    section("Activity", drawn.element),
    section("Machine", load.element),
    ...sections.map(([title, part]) => section(title, part.element)),
    settings(),
  );
  let samples: StatusSample[] = [];
  const connection = connectionLine(() => feed.retry());
  const feed = new Feed({
    answer: (status) => {
      samples = appended(samples, status.samples);
      drawn.update(samples);
      const whole = { ...status, samples };
      for (const part of [about, load, ...sections.map(([, part]) => part)]) part.update(whole);
      contents.hidden = false;
    },
    state: (state) => {
      connection.update(state);
      contents.classList.toggle("stale", state.kind === "gone" || state.kind === "refused");
    },
  });
  panel.replaceChildren(
    element("div", { className: "status-head" }, connection.element, about.element),
    contents,
  );
  return { open: () => feed.open(), close: () => feed.close() };
}

function section(title: string, contents: HTMLElement): HTMLElement {
  const className = `section-${title.split(" ")[0]!.toLowerCase()}`;
  return element("section", { className, attributes: { "aria-label": title } }, element("h2", {}, title), contents);
}

/** Return the state of the connection in words. */
export function stateText(state: FeedState): string {
  switch (state.kind) {
    case "connecting":
      return "Connecting…";
    case "live":
      return "Live";
    case "gone":
      return `Server gone since ${clock(state.since)}: ${state.reason}. Trying again.`;
    case "refused":
      return `The server refused: ${state.reason}`;
  }
}

function connectionLine(retry: () => void): Part<FeedState> {
  const text = element("span", { attributes: { role: "status" } });
  const again = element("button", { type: "button", hidden: true }, "Try now");
  again.addEventListener("click", retry);
  const line = element("p", { className: "connection" }, text, again);
  return {
    element: line,
    update: (state) => {
      setText(text, stateText(state));
      line.className = `connection ${state.kind}`;
      again.hidden = state.kind === "live" || state.kind === "connecting";
    },
  };
}
