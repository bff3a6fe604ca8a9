/** API keys in the text of settings. */

/** Characters that stand for themselves in every format, with and without quotes. */
const PLAIN = /^[\w@%+=:,./-]*$/;

/**
 * Replace the placeholder by a key, quoted as its place requires. In all formats but "text", placeholders are in
 * quotes; in "sh" one may be bare.
 */
export function withKey(text: string, format: string, placeholder: string, key: string): string {
  if (!placeholder) return text;
  const [first = "", ...rest] = text.split(placeholder);
  if (format !== "sh") return [first, ...rest].join(escaped(key, format));
  let isQuoted = hasOpenQuote(first);
  let filled = first;
  for (const part of rest) {
    filled += shell(key, isQuoted) + part;
    isQuoted = isQuoted !== hasOpenQuote(part);
  }
  return filled;
}

function hasOpenQuote(text: string): boolean {
  return text.split("'").length % 2 === 0;
}

function escaped(key: string, format: string): string {
  if (format === "text") return key;
  if (format === "vim") return key.replaceAll("'", "''");
  return JSON.stringify(key).slice(1, -1);
}

function shell(key: string, isQuoted: boolean): string {
  if (PLAIN.test(key)) return key;
  const inner = key.replaceAll("'", `'"'"'`);
  return isQuoted ? inner : `'${inner}'`;
}
