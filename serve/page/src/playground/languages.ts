/**
 * The editor's languages: their names, indentation and syntax. Their parsers only tokenize, so that a key costs little,
 * and an open bracket does not change the colours of the lines below it.
 */

import { indentUnit, StreamLanguage } from "@codemirror/language";
import { cpp, java } from "@codemirror/legacy-modes/mode/clike";
import { go } from "@codemirror/legacy-modes/mode/go";
import { typescript } from "@codemirror/legacy-modes/mode/javascript";
import { python } from "@codemirror/legacy-modes/mode/python";
import { rust } from "@codemirror/legacy-modes/mode/rust";
import { html } from "@codemirror/legacy-modes/mode/xml";
import type { Extension } from "@codemirror/state";

interface LanguageChoice {
  label: string;
  indent: string;
  syntax?: Extension;
}

/** Languages by the name of their sample. */
export const LANGUAGES: Record<string, LanguageChoice> = {
  python: { label: "Python", indent: "    ", syntax: StreamLanguage.define(python) },
  typescript: { label: "JavaScript, TypeScript", indent: "  ", syntax: StreamLanguage.define(typescript) },
  rust: { label: "Rust", indent: "    ", syntax: StreamLanguage.define(rust) },
  cpp: { label: "C, C++", indent: "    ", syntax: StreamLanguage.define(cpp) },
  go: { label: "Go", indent: "\t", syntax: StreamLanguage.define(go) },
  java: { label: "Java", indent: "    ", syntax: StreamLanguage.define(java) },
  html: { label: "HTML", indent: "  ", syntax: StreamLanguage.define(html) },
  plain: { label: "Plain text", indent: "  " },
};

/** Return the extensions of a language. */
export function languageExtension(name: string): Extension {
  const { indent, syntax } = LANGUAGES[name]!;
  return [indentUnit.of(indent), syntax ?? []];
}
