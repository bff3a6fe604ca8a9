/** The editor's languages: their names, and their syntax without CodeMirror's own completions. */

import { cppLanguage } from "@codemirror/lang-cpp";
import { goLanguage } from "@codemirror/lang-go";
import { htmlLanguage } from "@codemirror/lang-html";
import { javaLanguage } from "@codemirror/lang-java";
import { typescriptLanguage } from "@codemirror/lang-javascript";
import { pythonLanguage } from "@codemirror/lang-python";
import { rustLanguage } from "@codemirror/lang-rust";
import { indentUnit, LanguageSupport } from "@codemirror/language";
import type { Extension } from "@codemirror/state";

interface LanguageChoice {
  label: string;
  indent: string;
  syntax?: ConstructorParameters<typeof LanguageSupport>[0];
}

/** Languages by the name of their sample. */
export const LANGUAGES: Record<string, LanguageChoice> = {
  python: { label: "Python", indent: "    ", syntax: pythonLanguage },
  typescript: { label: "JavaScript, TypeScript", indent: "  ", syntax: typescriptLanguage },
  rust: { label: "Rust", indent: "    ", syntax: rustLanguage },
  cpp: { label: "C, C++", indent: "    ", syntax: cppLanguage },
  go: { label: "Go", indent: "\t", syntax: goLanguage },
  java: { label: "Java", indent: "    ", syntax: javaLanguage },
  html: { label: "HTML", indent: "  ", syntax: htmlLanguage },
  plain: { label: "Plain text", indent: "  " },
};

/** Return the extensions of a language. */
export function languageExtension(name: string): Extension {
  const { indent, syntax } = LANGUAGES[name]!;
  return [indentUnit.of(indent), syntax ? new LanguageSupport(syntax) : []];
}
