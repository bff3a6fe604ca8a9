/** The editor's languages: their names, and their syntax without CodeMirror's own completions. */

import { indentUnit, StreamLanguage, type StreamParser } from "@codemirror/language";
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
  syntax?: StreamParser<unknown>;
}

/** Languages by the name of their sample. */
export const LANGUAGES: Record<string, LanguageChoice> = {
  python: { label: "Python", indent: "    ", syntax: python },
  typescript: { label: "JavaScript, TypeScript", indent: "  ", syntax: typescript },
  rust: { label: "Rust", indent: "    ", syntax: rust },
  cpp: { label: "C, C++", indent: "    ", syntax: cpp },
  go: { label: "Go", indent: "\t", syntax: go },
  java: { label: "Java", indent: "    ", syntax: java },
  html: { label: "HTML", indent: "  ", syntax: html },
  plain: { label: "Plain text", indent: "  " },
};

/** Return the extensions of a language. */
export function languageExtension(name: string): Extension {
  const { indent, syntax } = LANGUAGES[name]!;
  return [indentUnit.of(indent), syntax ? StreamLanguage.define(syntax) : []];
}
