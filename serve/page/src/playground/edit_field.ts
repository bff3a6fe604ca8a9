/** A proposed next edit in CodeMirror: the lines that it removes are marked, and those that it adds stand below. */

import { StateEffect, StateField } from "@codemirror/state";
import { Decoration, type DecorationSet, EditorView, WidgetType } from "@codemirror/view";

import { element } from "../element";
import { cutNote, pieces } from "./ghost_field";
import { lineDifference, type ProposedEdit } from "./next_edit";
import { cut } from "./visible";

interface ShownEdit {
  edit: ProposedEdit;
  marks: DecorationSet;
}

/** Show this edit, or none. */
export const setEdit = StateEffect.define<ProposedEdit | null>();

export const editField = StateField.define<ShownEdit | null>({
  create: () => null,
  update(shown, transaction) {
    for (const effect of transaction.effects)
      if (effect.is(setEdit)) return effect.value && { edit: effect.value, marks: marksOf(effect.value, transaction.newDoc.toString()) };
    return transaction.docChanged ? null : shown;
  },
  provide: (field) => EditorView.decorations.from(field, (shown) => shown?.marks ?? Decoration.none),
});

function marksOf(edit: ProposedEdit, text: string): DecorationSet {
  const lines = lineDifference(edit, text);
  const marks = [];
  if (lines.to > lines.from) marks.push(Decoration.mark({ class: "tp-removed" }).range(lines.from, lines.to));
  const widget = new AddedLines(lines.added.join("\n"));
  marks.push(Decoration.widget({ widget, side: 1, block: true }).range(lines.to));
  return Decoration.set(marks);
}

class AddedLines extends WidgetType {
  constructor(private readonly text: string) {
    super();
  }

  override eq(other: AddedLines): boolean {
    return other.text === this.text;
  }

  override toDOM(): HTMLElement {
    const { shown, hidden } = cut(this.text);
    const note = hidden ? [element("span", { className: "cut", textContent: cutNote(hidden) })] : [];
    return element("div", { className: "tp-added", attributes: { "aria-hidden": "true" } }, ...pieces(shown), ...note);
  }
}
