/** Small charts of the last five minutes. */

import { element } from "../element";
import type { StatusSample } from "./answers";
import { setAttribute, setText } from "./rows";
import { axisEnd, curve, nearest, type Point, points, WINDOW } from "./timeline";
import { clock, NOTHING } from "../units";

const HEIGHT = 100;

export interface Curve {
  name: string;
  colour: string;
  valueOf(sample: StatusSample): number | undefined;
}

export interface ChartOptions {
  title: string;
  curves: readonly Curve[];
  /** A value with its unit. */
  format(value: number): string;
  /** Upper end of the axis if it is fixed, else the least that it is. */
  top: { fixed: number } | { least: number };
}

export interface Chart {
  element: HTMLElement;
  update(samples: readonly StatusSample[]): void;
  /** Show the values at this time instead of the newest ones; undefined ends that. */
  inspect(time: number | undefined): void;
}

/** Make a chart; `onInspect` is called with the time under the pointer. */
export function chart(options: ChartOptions, onInspect: (time: number | undefined) => void): Chart {
  const { curves, format } = options;
  const paths = curves.map((c) => ({
    area: svg("path", `area ${c.colour}`),
    line: svg("path", `line ${c.colour}`),
    dots: svg("path", `dots ${c.colour}`),
  }));
  const cursor = svg("path", "cursor");
  const drawing = svg("svg", "");
  for (const [name, value] of Object.entries({
    viewBox: `0 0 ${WINDOW} ${HEIGHT}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
    focusable: "false",
  })) {
    drawing.setAttribute(name, value);
  }
  drawing.append(...paths.flatMap((p) => Object.values(p)), cursor);
  const end = element("span", { className: "axis-top" });
  const plot = element(
    "div",
    { className: "plot", attributes: { role: "img" } },
    end,
    element("span", { className: "axis-bottom" }, "0"),
    drawing,
  );
  const values = curves.map(() => element("b"));
  const when = element("span", { className: "chart-when" }, "now");
  const now = curves.map((c, i) =>
    element(
      "span",
      { className: "chart-value" },
      ...(curves.length > 1 ? [element("i", { className: c.colour }), `${c.name} `] : []),
      values[i]!,
    ),
  );
  const figure = element(
    "figure",
    { className: "chart" },
    element("figcaption", {}, element("span", { className: "chart-title" }, options.title), ...now),
    plot,
    element("div", { className: "chart-time", ariaHidden: "true" }, element("span", {}, "5 min ago"), when),
  );

  let found: Point[][] = curves.map(() => []);
  let newest = 0;
  let inspected: number | undefined;

  function showValues(): void {
    for (const [i, all] of found.entries()) {
      const point = inspected === undefined ? all.at(-1) : nearest(all, inspected);
      setText(values[i]!, point ? format(point.value) : NOTHING);
    }
    setText(when, inspected === undefined ? "now" : clock(inspected));
    const x = inspected === undefined ? -1 : WINDOW - (newest - inspected);
    cursor.setAttribute("d", x < 0 ? "" : `M${x} 0V${HEIGHT}`);
  }

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    onInspect(newest - WINDOW * (1 - (event.clientX - box.left) / box.width));
  });
  plot.addEventListener("pointerleave", () => onInspect(undefined));

  return {
    element: figure,
    update: (samples) => {
      newest = samples.at(-1)?.time ?? 0;
      found = curves.map((c) => points(samples, (s) => c.valueOf(s)));
      const highest = Math.max(0, ...found.flat().map((p) => p.value));
      const top = "fixed" in options.top ? options.top.fixed : axisEnd(highest, options.top.least);
      for (const [i, { area, line, dots }] of paths.entries()) {
        const drawn = curve(found[i]!, newest, top, HEIGHT);
        area.setAttribute("d", drawn.area);
        line.setAttribute("d", drawn.line);
        dots.setAttribute("d", drawn.dots);
      }
      setText(end, format(top));
      setAttribute(plot, "aria-label", description(options, found));
      showValues();
    },
    inspect: (time) => {
      inspected = time;
      showValues();
    },
  };
}

/** Return the text alternative: the newest, lowest and highest value of each curve. */
export function description({ title, curves, format }: ChartOptions, found: readonly Point[][]): string {
  const texts = curves.map((c, i) => {
    const values = found[i]!.map((p) => p.value);
    if (!values.length) return `${c.name}: no values`;
    const [low, high] = [Math.min(...values), Math.max(...values)].map(format);
    return `${c.name}: now ${format(values.at(-1)!)}, between ${low} and ${high}`;
  });
  return `${title} in the last five minutes. ${texts.join(". ")}.`;
}

function svg(tag: string, className: string): SVGElement {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  if (className) made.setAttribute("class", className);
  return made;
}
