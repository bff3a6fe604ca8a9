/** The text around the cursor that is sent to the server. */

export const MOST_PREFIX = 8000;
export const MOST_SUFFIX = 2000;

/** A document, as CodeMirror's `Text`. */
export interface Sliced {
  readonly length: number;
  sliceString(from: number, to?: number): string;
}

/** Return the text before and after the cursor, without the parts that are far from it; cut between two lines. */
export function promptWindow(text: Sliced, cursor: number): { prefix: string; suffix: string } {
  const from = Math.max(0, cursor - MOST_PREFIX);
  const to = Math.min(text.length, cursor + MOST_SUFFIX);
  let prefix = text.sliceString(from, cursor);
  let suffix = text.sliceString(cursor, to);
  // A line that is longer than the window is cut where the window ends, but not inside a surrogate pair.
  if (from > 0) prefix = prefix.slice(prefix.indexOf("\n") + 1).replace(/^[\udc00-\udfff]/, "");
  const last = suffix.lastIndexOf("\n");
  if (to < text.length) suffix = (last < 0 ? suffix : suffix.slice(0, last + 1)).replace(/[\ud800-\udbff]$/, "");
  return { prefix, suffix };
}
