/** Completions at the cursor: when they are asked for, shown, accepted and dismissed. */

import { Annotation, type Transaction } from "@codemirror/state";
import type { EditorView, ViewUpdate } from "@codemirror/view";

import { events, LOW } from "../server";
import { Asker } from "./asker";
import { type CompletionChunk, CompletionReader, completionBody } from "./completion_stream";
import { cycled, firstWord, fitting, type GhostText, grown, position, rest } from "./ghost_text";
import { ghostField, setGhost } from "./ghost_field";
import type { Problem } from "./problem";
import { promptWindow } from "./prompt_window";
import { Report } from "./reports";
import type { Sampling } from "./sampling";
import { spoken } from "./visible";

/** One session for each open page: the server ends an older request of the same session. */
export const SESSION = { "X-TurboPilot-Session": `page-${crypto.getRandomValues(new Uint32Array(2)).join("-")}` };

const accepted = Annotation.define<boolean>();

export interface Asked {
  model: string;
  sampling: Sampling;
}

/** What the view shows around the editor. */
export interface Progress {
  phase: "idle" | "waiting" | "growing" | "done" | "nothing";
  reader?: CompletionReader | undefined;
  firstTokenMs?: number | undefined;
}

export interface CompleterHost {
  asked(): Asked;
  progress(progress: Progress): void;
  failed(problem: Problem): void;
  /** Say something to users of screen readers. */
  announce(text: string): void;
}

export class Completer {
  private readonly asker: Asker;
  private report: Report | undefined;
  private requests = 0;

  constructor(
    private readonly view: () => EditorView,
    private readonly host: CompleterHost,
  ) {
    this.asker = new Asker((signal) => this.ask(signal), (problem) => this.host.failed(problem));
  }

  /** The ghost text with a visible rest, or null. */
  get ghost(): GhostText | null {
    const ghost = this.view().state.field(ghostField);
    return ghost && rest(ghost) ? ghost : null;
  }

  /** Ask for completions now. */
  now(): void {
    this.hide();
    this.asker.now();
  }

  /** Ask for completions after a pause. */
  later(): void {
    this.hide();
    this.asker.later();
  }

  /** Accept the whole completion, or its first word. Return whether there is one. */
  accept(part: "all" | "word"): boolean {
    const { ghost } = this;
    if (!ghost) return false;
    const text = part === "all" ? rest(ghost) : firstWord(rest(ghost));
    const from = position(ghost);
    this.report?.decide("select", ghost.shown);
    this.view().dispatch({
      changes: { from, insert: text },
      selection: { anchor: from + text.length },
      annotations: accepted.of(true),
      userEvent: "input.complete",
      scrollIntoView: true,
    });
    return true;
  }

  /** Show the next alternative, or the previous one. Return whether there is ghost text. */
  cycle(step: 1 | -1): boolean {
    const { ghost } = this;
    if (!ghost) return false;
    const next = cycled(ghost, step);
    this.view().dispatch({ effects: setGhost.of(next) });
    this.report?.view(next.shown);
    const indexes = fitting(next);
    this.host.announce(`${indexes.indexOf(next.shown) + 1} of ${indexes.length}: ${spoken(rest(next))}`);
    return true;
  }

  /** Abort the request; what is shown stays. */
  stop(): void {
    this.asker.stop();
  }

  /** Remove the ghost text and abort the request. Return whether there was any of them. */
  dismiss(): boolean {
    const isBusy = this.asker.stop();
    const { ghost } = this;
    if (ghost) this.report?.decide("dismiss", ghost.shown);
    this.hide();
    return isBusy || ghost !== null;
  }

  /** Note a change of the document or of the selection. */
  updated(update: ViewUpdate, isAutomatic: boolean): void {
    const [before, after] = [update.startState.field(ghostField), update.state.field(ghostField)];
    const edits = update.transactions.filter((t) => t.docChanged);
    if (before && !after && rest(before) && !update.transactions.some(replacesGhost)) {
      const isUsed = edits.some((t) => t.annotation(accepted) || isTypedOut(before, t));
      if (!isUsed) this.report?.decide("dismiss", before.shown);
    }
    if (after) return;
    const isMoved = !update.startState.selection.eq(update.state.selection);
    const isTyped = edits.some((t) => t.isUserEvent("input") || t.isUserEvent("delete"));
    if (isTyped && isAutomatic) this.asker.later();
    else if (edits.length || isMoved) this.asker.abandon();
    if (isTyped || (before && (edits.length || isMoved))) this.host.progress({ phase: "idle" });
  }

  private hide(): void {
    if (this.view().state.field(ghostField)) this.view().dispatch({ effects: setGhost.of(null) });
    this.host.progress({ phase: "idle" });
  }

  private async ask(signal: AbortSignal): Promise<void> {
    const { state, composing } = this.view();
    if (composing) return this.asker.later(); // an input method is not finished
    const start = state.selection.main.head;
    const { prefix, suffix } = promptWindow(state.doc, start);
    if (!state.selection.main.empty || !(prefix + suffix).trim()) return;
    const { model, sampling } = this.host.asked();
    const request = ++this.requests;
    const reader = new CompletionReader();
    const began = performance.now();
    let firstTokenMs: number | undefined;
    let frame = 0;
    this.host.progress({ phase: "waiting" });
    const body = completionBody(model, prefix, suffix, sampling);
    const paint = (): void => {
      frame = 0;
      if (!signal.aborted) this.paint({ request, start, typed: "", alternatives: [], shown: 0 }, reader);
    };
    for await (const chunk of events<CompletionChunk>("/v1/completions", { body, signal, headers: { ...LOW, ...SESSION } })) {
      reader.add(chunk);
      if (firstTokenMs === undefined && reader.alternatives.some((a) => a.text)) firstTokenMs = performance.now() - began;
      // Several chunks may arrive between two pictures of the screen.
      frame ||= requestAnimationFrame(paint);
      if (!signal.aborted) this.host.progress({ phase: firstTokenMs === undefined ? "waiting" : "growing", reader, firstTokenMs });
    }
    cancelAnimationFrame(frame);
    paint();
    if (signal.aborted) return;
    const ghost = this.view().state.field(ghostField);
    const isNothing = !reader.alternatives.some((a) => a.text.trim());
    if (isNothing) this.view().dispatch({ effects: setGhost.of(null) });
    this.host.progress({ phase: isNothing ? "nothing" : "done", reader, firstTokenMs });
    this.host.announce(isNothing || !ghost ? "No completion here." : announcement(ghost));
  }

  /** Show what has arrived. */
  private paint(begun: GhostText, reader: CompletionReader): void {
    const view = this.view();
    const { alternatives } = reader;
    if (!alternatives.some((a) => a.text)) return;
    const current = view.state.field(ghostField);
    const isFirst = current?.request !== begun.request;
    const ghost = grown(isFirst ? begun : current, alternatives);
    view.dispatch({ effects: setGhost.of(ghost) });
    if (!ghost || !rest(ghost).trim()) return;
    if (isFirst || !this.report) this.report = new Report(reader.id);
    this.report.view(ghost.shown);
  }
}

function announcement(ghost: GhostText): string {
  const text = rest(ghost);
  const lines = text.trimEnd().split("\n").length;
  const more = lines > 1 ? `, and ${lines - 1} more ${lines > 2 ? "lines" : "line"}` : "";
  const n = fitting(ghost).length;
  return `Completion: ${spoken(text)}${more}. ${n > 1 ? `${n} alternatives. ` : ""}Tab accepts it.`;
}

function replacesGhost(transaction: Transaction): boolean {
  return transaction.effects.some((effect) => effect.is(setGhost));
}

/** Return whether a change types the end of the ghost text. */
function isTypedOut(ghost: GhostText, transaction: Transaction): boolean {
  let isSo = false;
  transaction.changes.iterChanges((from, to, _from, _to, text) => {
    isSo = from === position(ghost) && to === from && text.toString() === rest(ghost);
  });
  return isSo;
}
