/** Quantities as short texts with units. */

export const NOTHING = "–";
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Three significant digits: 1,234 · 62 · 4.1 · 0.37. */
export function number(value: number): string {
  const size = Math.abs(value);
  if (size >= 9.95 || size === 0) return grouped.format(value);
  return value.toFixed(size >= 0.995 ? 1 : 2);
}

/** A whole number with separators: 4,194,304. */
export function count(value: number): string {
  return grouped.format(value);
}

/** Bytes in binary units: 512 B · 143 MiB · 1.6 GiB. */
export function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (value >= 1023.5 && i < units.length - 1) {
    value /= 1024;
    i++;
  }
  return `${i && value < 99.95 ? value.toFixed(1).replace(/\.0$/, "") : grouped.format(value)} ${units[i]}`;
}

/** A share from 0 to 1: 97 %. */
export function share(value: number): string {
  return `${Math.round(value * 100)} %`;
}

/** The share of a part; a dash if there is no whole. */
export function shareOf(part: number, whole: number): string {
  return whole ? share(part / whole) : NOTHING;
}

/** A duration in milliseconds: 0.4 ms · 38 ms · 1.24 s · 2 min 5 s. */
export function duration(ms: number): string {
  if (ms < 999.5) return `${ms > 0 && ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9995 ? 2 : 1)} s`;
  return span(ms / 1000);
}

/** A duration in seconds, in at most two units: 3 s · 4 min 10 s · 3 h 25 min · 2 d 4 h. */
export function span(seconds: number): string {
  const units: [string, number][] = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = Math.max(0, Math.round(seconds));
  const first = units.findIndex(([, size]) => rest >= size);
  if (first < 0) return "0 s";
  const parts: string[] = [];
  for (const [name, size] of units.slice(first, first + 2)) {
    const n = Math.floor(rest / size);
    rest -= n * size;
    if (n) parts.push(`${n} ${name}`);
  }
  return parts.join(" ");
}

/** The local time of a Unix time: 14:03:27. */
export function clock(unix: number): string {
  return new Date(unix * 1000).toTimeString().slice(0, 8);
}
