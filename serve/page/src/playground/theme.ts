/** The editor's look, in the colours of look.css, which are light or dark. */

import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import type { Extension } from "@codemirror/state";
import { EditorView } from "@codemirror/view";
import { tags as t } from "@lezer/highlight";

const mixed = (colour: string, percent: number): string => `color-mix(in srgb, var(${colour}) ${percent}%, transparent)`;

const frame = EditorView.theme({
  "&": { height: "100%", color: "var(--ink)", backgroundColor: "var(--page)", fontSize: "13px" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", lineHeight: "1.55", overflow: "auto" },
  ".cm-content": { padding: "8px 0", caretColor: "var(--link)" },
  ".cm-line": { padding: "0 12px 0 8px" },
  ".cm-gutters": { color: "var(--soft)", backgroundColor: "var(--page)", border: "none", minWidth: "40px" },
  ".cm-lineNumbers .cm-gutterElement": { padding: "0 6px 0 10px" },
  ".cm-activeLine": { backgroundColor: mixed("--shade", 70) },
  ".cm-activeLineGutter": { backgroundColor: "transparent", color: "var(--ink)" },
  ".cm-content ::selection": { backgroundColor: mixed("--k1", 28) },
  "&.cm-focused .cm-matchingBracket": { backgroundColor: mixed("--k1", 22) },
  "&.cm-focused .cm-nonmatchingBracket": { backgroundColor: mixed("--bad", 22) },
  ".cm-specialChar": { color: "var(--bad)" },
  ".cm-placeholder": { color: "var(--soft)" },

  ".tp-ghost": { color: "var(--soft)", whiteSpace: "pre-wrap", fontStyle: "italic" },
  ".tp-ghost .escape": { color: "var(--bad)", fontStyle: "normal" },
  ".tp-ghost .cut, .tp-added .cut": {
    padding: "0 5px", border: "1px solid var(--rule)", borderRadius: "4px", fontStyle: "normal",
  },
  ".tp-ghost .p3": { color: "var(--good)" },
  ".tp-ghost .p2": { color: "var(--k1)" },
  ".tp-ghost .p1": { color: "var(--k2)" },
  ".tp-ghost .p0": { color: "var(--bad)", textDecoration: "underline dotted" },
  ".cm-line.tp-removed": { backgroundColor: "var(--bad-shade)" },
  ".tp-struck": { textDecoration: `line-through ${mixed("--bad", 70)}` },
  ".tp-added": { backgroundColor: "var(--good-shade)", whiteSpace: "pre-wrap", padding: "0 12px 0 8px" },
  ".tp-added .escape": { color: "var(--bad)" },
});

// The tags that the parsers of @codemirror/legacy-modes assign.
const highlight = HighlightStyle.define([
  { tag: [t.keyword, t.modifier], color: "var(--k3)" },
  { tag: t.string, color: "var(--good)" },
  { tag: [t.number, t.atom, t.self, t.special(t.variableName)], color: "var(--k2)" },
  { tag: [t.definition(t.variableName), t.standard(t.variableName)], color: "var(--k1)" },
  { tag: [t.typeName, t.tagName], color: "var(--k4)" },
  { tag: [t.comment, t.meta], color: "var(--soft)" },
  { tag: t.invalid, color: "var(--bad)" },
]);

export const look: Extension = [frame, syntaxHighlighting(highlight)];
