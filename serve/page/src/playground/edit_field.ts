/** A proposed next edit in CodeMirror: the lines that it removes are marked, and those that it adds stand below. */

import { StateEffect, StateField, type Text } from "@codemirror/state";
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
      if (effect.is(setEdit)) return effect.value && { edit: effect.value, marks: marksOf(effect.value, transaction.newDoc) };
    return transaction.docChanged ? null : shown;
  },
  provide: (field) => EditorView.decorations.from(field, (shown) => shown?.marks ?? Decoration.none),
});

function marksOf(edit: ProposedEdit, doc: Text): DecorationSet {
  const { from, to, added } = lineDifference(edit, doc.toString());
  const widget = new AddedLines(added.join("\n"));
  const marks = [Decoration.widget({ widget, side: 1, block: true }).range(to)];
  for (let at = from; at <= to; ) {
    const line = doc.lineAt(at);
    const start = line.from + line.text.search(/\S|$/);
    marks.push(Decoration.line({ class: "tp-removed" }).range(line.from));
    if (start < line.to) marks.push(Decoration.mark({ class: "tp-struck" }).range(start, line.to));
    at = line.to + 1;
  }
  return Decoration.set(marks, true);
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
