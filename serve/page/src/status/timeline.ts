/** Samples of the last minutes, and their curves in a chart. */

import type { StatusSample } from "./answers";

/** Seconds that the charts show. */
export const WINDOW = 300;
/** Seconds without a value after which a curve is interrupted. */
export const LONGEST_GAP = 12;

export interface Point {
  time: number;
  value: number;
}

/** Paths in SVG's notation. */
export interface Paths {
  area: string;
  line: string;
  dots: string;
}

/** Append newer samples and drop those that are older than the window. */
export function appended(known: readonly StatusSample[], more: readonly StatusSample[]): StatusSample[] {
  const last = known.at(-1)?.time ?? -Infinity;
  const all = [...known, ...more.filter((s) => s.time > last)];
  const end = all.at(-1)?.time ?? 0;
  return all.filter((s) => s.time >= end - WINDOW);
}

/** Return the samples that have a value, with it. */
export function points(
  samples: readonly StatusSample[],
  valueOf: (s: StatusSample) => number | undefined,
): Point[] {
  const found: Point[] = [];
  for (const s of samples) {
    const value = valueOf(s);
    if (value !== undefined) found.push({ time: s.time, value });
  }
  return found;
}

/** Round ends of axes, times a power of ten. */
const STEPS = [1, 2, 3, 4, 5, 6, 8, 10];

/** Return the end of an axis: the smallest round number that is not below the highest value. */
export function axisEnd(highest: number, least = 1): number {
  const wanted = Math.max(highest, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = STEPS.find((n) => n * power >= wanted * (1 - 1e-9)) ?? 10;
  return step * power;
}

/** Split points into runs without long gaps. */
export function runs(all: readonly Point[]): Point[][] {
  const found: Point[][] = [];
  for (const p of all) {
    const run = found.at(-1);
    if (run && p.time - run.at(-1)!.time <= LONGEST_GAP) run.push(p);
    else found.push([p]);
  }
  return found;
}

/**
 * Return SVG paths of a curve, of the area below it and of its lone points, in a box of WINDOW × `height` whose right
 * edge is `end`. A lone point is a line of no length, which round caps show as a dot.
 */
export function curve(all: readonly Point[], end: number, top: number, height: number): Paths {
  let line = "";
  let area = "";
  let dots = "";
  const round = (n: number): string => String(Math.round(n * 100) / 100);
  for (const run of runs(all)) {
    const at = run.map((p) => `${round(WINDOW - (end - p.time))} ${round(height - (p.value / top) * height)}`);
    const x = (p: Point): string => round(WINDOW - (end - p.time));
    if (at.length === 1) {
      dots += `M${at[0]}h0`;
      continue;
    }
    line += `M${at.join("L")}`;
    area += `M${x(run[0]!)} ${height}L${at.join("L")}L${x(run.at(-1)!)} ${height}Z`;
  }
  return { area, line, dots };
}

/** Return the point that is nearest to a time, within the longest gap. */
export function nearest(all: readonly Point[], time: number): Point | undefined {
  let best: Point | undefined;
  for (const p of all) {
    if (Math.abs(p.time - time) <= Math.abs((best?.time ?? Infinity) - time)) best = p;
  }
  return best && Math.abs(best.time - time) <= LONGEST_GAP ? best : undefined;
}
