/** Horizontal bars: a meter, and one of several parts. */

import { element } from "../element";
import { setAttribute, setText } from "./rows";

/** Part of a stacked bar: its name in the text alternative, and the class that gives its colour. */
export interface BarPart {
  name: string;
  colour: string;
}

export interface StackedBar {
  element: HTMLElement;
  /** Show values whose sum is at most `whole`; `label` is the text alternative. */
  update(values: readonly number[], whole: number, label: string): void;
}

/** Make a bar of several parts. */
export function stackedBar(parts: readonly BarPart[]): StackedBar {
  const pieces = parts.map((part) => element("span", { className: part.colour }));
  const bar = element("span", { className: "bar", attributes: { role: "img" } }, ...pieces);
  return {
    element: bar,
    update: (values, whole, label) => {
      for (const [i, piece] of pieces.entries()) setWidth(piece, whole ? (values[i] ?? 0) / whole : 0);
      setAttribute(bar, "aria-label", label);
    },
  };
}

export interface Meter {
  element: HTMLElement;
  /** Show a share from 0 to 1 (undefined if it is unknown) and its text. */
  update(share: number | undefined, text: string): void;
}

/** Make a named bar with its value as text. If it `warns`, an almost full bar has another colour. */
export function meter(name: string, warns = true): Meter {
  const fill = element("span", { className: "k1" });
  const bar = element(
    "span",
    { className: "bar", attributes: { role: "meter", "aria-label": name, "aria-valuemin": "0", "aria-valuemax": "100" } },
    fill,
  );
  const value = element("span", { className: "meter-value" });
  return {
    element: element("div", { className: "meter" }, element("span", { className: "meter-name" }, name), value, bar),
    update: (share, text) => {
      const percent = Math.round(100 * Math.min(1, share ?? 0));
      setWidth(fill, percent / 100);
      fill.classList.toggle("full", warns && percent >= 95);
      setAttribute(bar, "aria-valuenow", String(percent));
      setAttribute(bar, "aria-valuetext", text);
      setText(value, text);
    },
  };
}

function setWidth(piece: HTMLElement, share: number): void {
  const width = `${Math.round(share * 10_000) / 100}%`;
  if (piece.style.width !== width) piece.style.width = width;
}
