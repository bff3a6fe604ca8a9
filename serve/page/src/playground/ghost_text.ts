/** A completion while it is shown as ghost text, and what typing does to it. Pure: it knows no editor. */

/** A token of a completion: offsets in its text, and the natural logarithm of its probability. */
export interface TokenSpan {
  from: number;
  to: number;
  logprob: number | null;
}

/** One of the completions of a request. */
export interface Alternative {
  text: string;
  tokens: TokenSpan[];
  /** Why it ended; null while it grows. */
  ended: string | null;
}

export interface GhostText {
  /** Number of the request. */
  request: number;
  /** Offset in the document at which the completions begin. */
  start: number;
  /** What the document has of them: typed or accepted since. */
  typed: string;
  alternatives: Alternative[];
  /** Index of the alternative that is shown. */
  shown: number;
}

/** Replacement of the text from `from` to `to` of the document. */
export interface Change {
  from: number;
  to: number;
  insert: string;
}

/** Return the offset in the document at which the ghost text is shown. */
export function position(ghost: GhostText): number {
  return ghost.start + ghost.typed.length;
}

/** Return the text that is not in the document yet; "" while an alternative is behind what was typed. */
export function rest(ghost: GhostText): string {
  return ghost.alternatives[ghost.shown]?.text.slice(ghost.typed.length) ?? "";
}

/** Return the indexes of the alternatives that continue what was typed, without repetitions. */
export function fitting(ghost: GhostText): number[] {
  const { alternatives, typed } = ghost;
  const seen = new Set<string>();
  return [...alternatives.keys()].filter((i) => {
    const { text } = alternatives[i]!;
    const isNew = i === ghost.shown || (text !== alternatives[ghost.shown]?.text && !seen.has(text));
    if (isNew && text.length > typed.length) seen.add(text);
    return isNew && text.length > typed.length && text.startsWith(typed);
  });
}

/** Return whether an alternative continues the typed text, or may still do so. */
function continues(alternative: Alternative, typed: string): boolean {
  const { text, ended } = alternative;
  return text.length > typed.length ? text.startsWith(typed) : ended === null && typed.startsWith(text);
}

/** Return the ghost text with its first alternative that continues the typed text; null if none does. */
function fitted(ghost: GhostText): GhostText | null {
  const isFit = (i: number): boolean => continues(ghost.alternatives[i]!, ghost.typed);
  if (ghost.alternatives[ghost.shown] && isFit(ghost.shown)) return ghost;
  const shown = [...ghost.alternatives.keys()].find(isFit);
  return shown === undefined ? null : { ...ghost, shown };
}

/**
 * Return the ghost text after a change of the document: null unless the change types on, or deletes the end of what was
 * typed since.
 */
export function afterChange(ghost: GhostText, change: Change): GhostText | null {
  const { from, to, insert } = change;
  if (to !== position(ghost) || from < ghost.start) return null;
  return fitted({ ...ghost, typed: ghost.typed.slice(0, from - ghost.start) + insert });
}

/** Return the ghost text with alternatives that have grown; null if none continues what was typed meanwhile. */
export function grown(ghost: GhostText, alternatives: Alternative[]): GhostText | null {
  return fitted({ ...ghost, alternatives });
}

/** Return the ghost text with the next alternative (step 1) or the previous one (step -1). */
export function cycled(ghost: GhostText, step: 1 | -1): GhostText {
  const indexes = fitting(ghost);
  const at = indexes.indexOf(ghost.shown);
  return { ...ghost, shown: indexes[(at + step + indexes.length) % indexes.length] ?? ghost.shown };
}

/** Return the beginning of a text up to the end of its first word or run of punctuation. */
export function firstWord(text: string): string {
  const found = /^\s*(?:[\p{L}\p{N}\p{M}_]+|[^\s\p{L}\p{N}\p{M}_]+)?/u.exec(text)?.[0];
  return found || text;
}
