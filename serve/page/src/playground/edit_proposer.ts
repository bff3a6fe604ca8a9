/** Next edits: when they are asked for, shown, accepted and dismissed. */

import { EditorView, type ViewUpdate } from "@codemirror/view";

import { json, LOW } from "../server";
import { Asker } from "./asker";
import { SESSION, type CompleterHost } from "./completer";
import { editField, setEdit } from "./edit_field";
import { lineDifference, MOST_FILE, type NextEditAnswer, type NextEditBody, proposedEdit, recentChange } from "./next_edit";
import { spoken } from "./visible";

export interface EditorFile {
  path: string;
  /** The file before the recent changes. */
  original: string;
}

export class EditProposer {
  private readonly asker: Asker;

  constructor(
    private readonly view: () => EditorView,
    private readonly file: () => EditorFile,
    private readonly host: CompleterHost & { answered(milliseconds: number): void },
  ) {
    this.asker = new Asker((signal) => this.ask(signal), (problem) => this.host.failed(problem));
  }

  /** Whether an edit is shown. */
  get isShown(): boolean {
    return this.view().state.field(editField) !== null;
  }

  /** Ask for an edit now. */
  now(): void {
    this.hide();
    this.asker.now();
  }

  /** Make the shown edit. Return whether there is one. */
  accept(): boolean {
    const shown = this.view().state.field(editField);
    if (!shown) return false;
    const { from, to, insert } = shown.edit;
    this.view().dispatch({
      changes: { from, to, insert },
      selection: { anchor: from + insert.length },
      userEvent: "input.complete",
      scrollIntoView: true,
    });
    return true;
  }

  /** Abort the request; what is shown stays. */
  stop(): void {
    this.asker.stop();
  }

  /** Remove the shown edit and abort the request. Return whether there was any of them. */
  dismiss(): boolean {
    const isBusy = this.asker.stop();
    const { isShown } = this;
    this.hide();
    return isBusy || isShown;
  }

  /** Note a change of the document. */
  updated(update: ViewUpdate, isAutomatic: boolean): void {
    const edits = update.transactions.filter((t) => t.docChanged);
    if (!edits.length) return;
    this.host.progress({ phase: "idle" });
    if (isAutomatic && edits.some((t) => t.isUserEvent("input") || t.isUserEvent("delete"))) this.asker.later(400);
    else this.asker.abandon();
  }

  private hide(): void {
    if (this.isShown) this.view().dispatch({ effects: setEdit.of(null) });
    this.host.progress({ phase: "idle" });
  }

  private async ask(signal: AbortSignal): Promise<void> {
    const { state } = this.view();
    const text = state.doc.toString();
    if (text.length > MOST_FILE) throw new Error("the file is too long for a next edit; use completions");
    const { path, original } = this.file();
    const { model } = this.host.asked();
    const body: NextEditBody = {
      file_path: path,
      file_contents: text,
      original_file_contents: original,
      cursor_position: state.selection.main.head,
      recent_changes: recentChange(path, original, text),
      ...(model && { model }),
    };
    this.host.progress({ phase: "waiting" });
    const began = performance.now();
    const route = "/backend/next_edit_autocomplete";
    const answer = await json<NextEditAnswer>(route, { body, signal, headers: { ...LOW, ...SESSION } });
    if (signal.aborted || this.view().state.doc !== state.doc) return;
    const edit = proposedEdit(answer, text);
    const scroll = edit ? [EditorView.scrollIntoView(edit.from, { y: "nearest", yMargin: 60 })] : [];
    this.view().dispatch({ effects: [setEdit.of(edit), ...scroll] });
    this.host.progress({ phase: edit ? "done" : "nothing" });
    this.host.answered(performance.now() - began);
    this.host.announce(edit ? announcement(lineDifference(edit, text)) : "No edit here.");
  }
}

function announcement({ removed, added }: { removed: string[]; added: string[] }): string {
  const lines = removed.length === 1 ? "a line" : `${removed.length} lines`;
  return `Edit: replace ${lines} by: ${spoken(added.join(" "))}. Tab accepts it.`;
}
