/** Text of a model made visible: controls that would reorder, hide or restyle it are shown as escapes. */

export interface Piece {
  text: string;
  /** Whether the text is the escape of a character, such as `\u{202e}`. */
  isEscape: boolean;
}

/** Longest completion that is drawn; the rest is counted. */
export const MOST_CHARACTERS = 4000;
export const MOST_LINES = 60;

/**
 * Characters that are not drawn as they are: controls (but tab and newline), format characters, among them those for
 * bidirectional text and of width zero, separators of lines and paragraphs, unpaired surrogates, and private use.
 */
const HIDDEN = /[^\P{C}\n\t]|[\u2028\u2029\u{e0000}-\u{e0fff}]/u;
const EACH_HIDDEN = new RegExp(HIDDEN, "gu");

/** Return the escape of a character: `\u{1b}`. */
export function escaped(character: string): string {
  return `\\u{${character.codePointAt(0)!.toString(16)}}`;
}

/** Split a text into pieces, of which the escapes stand for characters that would not be visible. */
export function visible(text: string): Piece[] {
  if (!HIDDEN.test(text)) return text ? [{ text, isEscape: false }] : [];
  const pieces: Piece[] = [];
  let end = 0;
  for (const found of text.matchAll(EACH_HIDDEN)) {
    if (found.index > end) pieces.push({ text: text.slice(end, found.index), isEscape: false });
    pieces.push({ text: escaped(found[0]), isEscape: true });
    end = found.index + found[0].length;
  }
  if (end < text.length) pieces.push({ text: text.slice(end), isEscape: false });
  return pieces;
}

/** Return a text on one line without any hidden character, for a screen reader or a message. */
export function spoken(text: string, most = 200): string {
  const line = cut(text.trim(), most, 1).shown;
  return visible(line).map((piece) => piece.text).join("");
}

/** Return the length of the beginning of a text that is drawn, which ends between two characters. */
export function cut(text: string, most = MOST_CHARACTERS, lines = MOST_LINES): { shown: string; hidden: number } {
  let end = Math.min(text.length, most);
  for (let at = -1, line = 0; (at = text.indexOf("\n", at + 1)) >= 0 && at < end; )
    if (++line === lines) end = at;
  if (end < text.length && /[\ud800-\udbff]/.test(text[end - 1] ?? "")) end -= 1;
  return { shown: text.slice(0, end), hidden: text.length - end };
}
