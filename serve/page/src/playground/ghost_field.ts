/** Ghost text in CodeMirror: its state, and how it is drawn. */

import { Prec, StateEffect, StateField, type Transaction } from "@codemirror/state";
import { Decoration, type DecorationSet, EditorView, WidgetType } from "@codemirror/view";

import { element } from "../element";
import { shadeOf } from "./facts";
import { afterChange, type Change, type GhostText, position, rest, type TokenSpan } from "./ghost_text";
import { cut, visible } from "./visible";

/** Show this ghost text, or none. */
export const setGhost = StateEffect.define<GhostText | null>();

export const ghostField = StateField.define<GhostText | null>({
  create: () => null,
  update(ghost, transaction) {
    for (const effect of transaction.effects) if (effect.is(setGhost)) return effect.value;
    return ghost && afterTransaction(ghost, transaction);
  },
  provide: (field) => Prec.lowest(EditorView.decorations.from(field, decorations)),
});

function afterTransaction(ghost: GhostText, transaction: Transaction): GhostText | null {
  let after: GhostText | null = ghost;
  if (transaction.docChanged) {
    const changes: Change[] = [];
    transaction.changes.iterChanges((from, to, _from, _to, text) => changes.push({ from, to, insert: text.toString() }));
    after = changes.length === 1 ? afterChange(ghost, changes[0]!) : null;
  }
  if (after && transaction.selection) {
    const { main, ranges } = transaction.newSelection;
    if (ranges.length > 1 || !main.empty || main.head !== position(after)) return null;
  }
  return after;
}

function decorations(ghost: GhostText | null): DecorationSet {
  const text = ghost ? rest(ghost) : "";
  if (!ghost || !text) return Decoration.none;
  const { typed, alternatives, shown } = ghost;
  const tokens = alternatives[shown]!.tokens.map((t) => ({
    ...t,
    from: Math.max(0, t.from - typed.length),
    to: t.to - typed.length,
  }));
  const widget = new GhostWidget(text, tokens.filter((t) => t.to > 0));
  return Decoration.set([Decoration.widget({ widget, side: 1 }).range(position(ghost))]);
}

class GhostWidget extends WidgetType {
  private readonly shown: string;

  constructor(
    private readonly text: string,
    private readonly tokens: readonly TokenSpan[],
  ) {
    super();
    this.shown = cut(text).shown;
  }

  override eq(other: GhostWidget): boolean {
    return other.text === this.text && other.tokens.length === this.tokens.length;
  }

  override get lineBreaks(): number {
    return this.shown.split("\n").length - 1;
  }

  /** Screen readers get the announcement of `Completer` instead: here the text would seem to be in the file. */
  override toDOM(): HTMLElement {
    return element("span", { className: "tp-ghost", attributes: { "aria-hidden": "true" } }, ...this.parts());
  }

  private *parts(): Generator<Node> {
    let at = 0;
    for (const token of this.tokens) {
      if (token.from >= this.shown.length) break;
      if (token.from > at) yield* pieces(this.shown.slice(at, token.from));
      const text = this.shown.slice(token.from, token.to);
      yield element("span", { className: shadeOf(token.logprob) }, ...pieces(text));
      at = Math.max(at, token.from + text.length);
    }
    yield* pieces(this.shown.slice(at));
    const hidden = this.text.length - this.shown.length;
    if (hidden) yield element("span", { className: "cut", textContent: cutNote(hidden) });
  }
}

/** Return the note about the part of a text that is not drawn. */
export function cutNote(hidden: number): string {
  return `… and ${hidden.toLocaleString("en")} more characters`;
}

/** Yield the nodes of a text, in which characters that would not be visible are escapes. */
export function* pieces(text: string): Generator<Node> {
  for (const piece of visible(text))
    yield piece.isEscape
      ? element("span", { className: "escape", textContent: piece.text })
      : document.createTextNode(piece.text);
}
