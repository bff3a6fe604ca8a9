/** The parts of the playground, and what joins them. */

import type { KeyBinding, ViewUpdate } from "@codemirror/view";

import { element } from "../element";
import { ActionRow, KEYS } from "./actions";
import { Completer, type CompleterHost, type Progress } from "./completer";
import { choice, SamplingFields, setOptions } from "./controls";
import { EditProposer } from "./edit_proposer";
import { CodeEditor } from "./editor";
import { facts, milliseconds } from "./facts";
import { fitting } from "./ghost_text";
import { LANGUAGES } from "./languages";
import { type ModelChoice, modelChoices, serverDefaults } from "./models";
import { type Problem, problemOf } from "./problem";
import { opened, SAMPLES } from "./samples";

const PHASES: Record<Progress["phase"], string> = {
  idle: "",
  waiting: "Waiting…",
  growing: "Completing…",
  done: "",
  nothing: "No completion here.",
};

type Mode = "completion" | "edit";

export class Playground {
  readonly parts: HTMLElement[];
  private readonly host = element("div", { className: "editor-host" });
  private readonly message = element("p", { className: "message" });
  private readonly retry = element("button", { type: "button", hidden: true, textContent: "Enter the key" });
  private readonly spoken = element("p", { className: "unseen", attributes: { role: "status", "aria-live": "polite" } });
  private readonly facts = element("dl", { className: "facts" });
  private readonly fields = new SamplingFields(() => this.again());
  private readonly language: HTMLSelectElement;
  private readonly model: HTMLSelectElement;
  private readonly mode: HTMLSelectElement;
  private readonly modeBox: HTMLElement;
  private readonly hint = element("p", { className: "note", hidden: true });
  private readonly actions: ActionRow;
  private readonly completer: Completer;
  private readonly proposer: EditProposer;
  private editor: CodeEditor | undefined;
  private models: ModelChoice[] = [];
  private wasOpened = false;
  private isLoading = false;

  constructor() {
    const names = Object.fromEntries(Object.entries(LANGUAGES).map(([name, { label }]) => [name, label]));
    const [languageBox, language] = choice("Language", names, () => this.openFile());
    const [modelBox, model] = choice("Model", {}, () => void this.modelChanged());
    const [modeBox, mode] = choice("Mode", { completion: "Completion", edit: "Next edit" }, () => this.modeChanged());
    this.language = language;
    this.model = model;
    this.mode = mode;
    this.modeBox = modeBox;
    modeBox.hidden = true;
    const reset = element("button", { type: "button", textContent: "Reset file" });
    reset.addEventListener("click", () => this.resetFile());
    this.retry.addEventListener("click", () => this.now());

    const host: CompleterHost & { answered(ms: number): void } = {
      asked: () => ({ model: this.model.value, sampling: this.fields.sampling }),
      progress: (progress) => this.show(progress),
      failed: (problem) => this.fail(problem),
      announce: (text) => (this.spoken.textContent = text),
      answered: (ms) => this.showFacts([{ name: "Answer", value: milliseconds(ms), title: "Time of the request" }]),
    };
    const view = () => this.editor!.view;
    this.completer = new Completer(view, host);
    this.proposer = new EditProposer(view, () => this.file(), host);
    this.actions = new ActionRow([
      { label: "Accept", keys: ["Tab"], run: () => this.accept() },
      { label: "Word", keys: KEYS.word, run: () => this.completer.accept("word") },
      { label: "Previous", keys: [KEYS.alt, "["], run: () => this.completer.cycle(-1) },
      { label: "Next", keys: [KEYS.alt, "]"], run: () => this.completer.cycle(1) },
      { label: "Dismiss", keys: ["Esc"], run: () => this.dismiss() },
      { label: "Complete", keys: [KEYS.alt, "\\"], run: () => this.now() },
    ]);

    const narrow = matchMedia("(max-width: 820px)").matches;
    const about = "To leave the editor by keyboard, press Esc, then Tab.";
    this.parts = [
      element("div", { className: "toolbar" }, languageBox, modelBox, modeBox, reset),
      element(
        "div",
        { className: "work" },
        element(
          "div",
          { className: "box" },
          this.host,
          element("div", { className: "bar" }, this.facts, this.message, this.retry, this.spoken),
        ),
        this.actions.box,
      ),
      element(
        "details",
        { className: "settings", open: !narrow },
        element("summary", { textContent: "Sampling" }),
        this.fields.box,
        this.hint,
        element("p", { className: "note", textContent: about }),
      ),
    ];
    this.showFacts(facts(undefined, undefined));
    this.refresh();
  }

  /** The view is opened: at first, make the editor, and complete the sample. */
  open(): void {
    if (this.wasOpened) return;
    this.wasOpened = true;
    this.editor = new CodeEditor(this.host, this.language.value, this.keys(), (update) => this.updated(update));
    // Until the page is loaded, the browser may move the focus to what the address's fragment names.
    if (document.readyState === "complete") this.focusIfNothingIs();
    else window.addEventListener("load", () => this.focusIfNothingIs(), { once: true });
    this.completer.now();
    void this.loadModels();
  }

  close(): void {
    this.completer.stop();
    this.proposer.stop();
  }

  private keys(): KeyBinding[] {
    const word = () => this.completer.accept("word");
    return [
      { key: "Tab", run: () => this.accept() },
      { key: "Ctrl-ArrowRight", run: word },
      { key: "Mod-ArrowRight", run: word },
      { key: "Alt-]", run: () => this.completer.cycle(1) },
      { key: "Alt-[", run: () => this.completer.cycle(-1) },
      { key: "Alt-\\", run: () => this.now() },
      { key: "Escape", run: () => this.escape() },
    ];
  }

  private get isEditing(): boolean {
    return (this.mode.value as Mode) === "edit" && !this.modeBox.hidden;
  }

  private accept(): boolean {
    return this.isEditing ? this.proposer.accept() : this.completer.accept("all");
  }

  private dismiss(): boolean {
    const wasShown = this.completer.dismiss();
    return this.proposer.dismiss() || wasShown;
  }

  /** Dismiss what is shown. The next Tab, if it comes soon, leaves the editor. */
  private escape(): boolean {
    this.editor!.view.setTabFocusMode(2000);
    return this.dismiss();
  }

  private now(): boolean {
    if (this.isEditing) this.proposer.now();
    else this.completer.now();
    return true;
  }

  /** Ask again after a change of the fields. */
  private again(): void {
    if (this.editor && this.fields.isAutomatic && !this.isEditing) this.completer.later();
  }

  private updated(update: ViewUpdate): void {
    if (this.isEditing) this.proposer.updated(update, this.fields.isAutomatic);
    else this.completer.updated(update, this.fields.isAutomatic);
    this.refresh();
  }

  private file(): { path: string; original: string } {
    const sample = SAMPLES[this.language.value]!;
    return { path: sample.file, original: opened(sample).text };
  }

  private openFile(): void {
    this.dismiss();
    this.editor!.open(this.language.value);
    this.again();
  }

  private resetFile(): void {
    this.dismiss();
    this.editor!.reset();
    this.editor!.view.focus();
    this.again();
  }

  private modeChanged(): void {
    this.dismiss();
    this.refresh();
    this.again();
  }

  private focusIfNothingIs(): void {
    if (document.activeElement === document.body) this.editor!.view.focus();
  }

  private async loadModels(): Promise<void> {
    if (this.isLoading) return;
    this.isLoading = true;
    try {
      this.models = await modelChoices();
      setOptions(this.model, Object.fromEntries(this.models.map((m) => [m.name, m.label])));
      await this.modelChanged(true);
    } catch (error) {
      const problem = problemOf(error);
      if (problem) this.fail(problem);
    } finally {
      this.isLoading = false;
    }
  }

  private async modelChanged(isFirst = false): Promise<void> {
    const chosen = this.models.find((m) => m.name === this.model.value);
    this.modeBox.hidden = !chosen?.predictsEdits;
    this.hint.hidden = chosen?.fills !== false;
    this.hint.textContent = "This model has no fill-in-the-middle: it does not see the text after the cursor.";
    if (!isFirst) this.modeChanged();
    const defaults = await serverDefaults(this.model.value).catch(() => undefined);
    if (defaults) this.fields.setDefaults(defaults);
  }

  private show(progress: Progress): void {
    this.message.classList.remove("is-problem");
    this.retry.hidden = true;
    this.setMessage(progress.phase === "done" ? this.doneText() : PHASES[progress.phase]);
    if (progress.reader && progress.phase !== "growing") this.showFacts(facts(progress.reader, progress.firstTokenMs));
    // A model may have been added while the server was away.
    if (progress.reader && !this.models.length) void this.loadModels();
  }

  /** Set the message if it changes: at each key, the browser must have nothing else to draw. */
  private setMessage(text: string): void {
    if (this.message.textContent !== text) this.message.textContent = text;
  }

  private doneText(): string {
    const { ghost } = this.completer;
    if (!ghost) return "";
    const indexes = fitting(ghost);
    return indexes.length > 1 ? `${indexes.indexOf(ghost.shown) + 1} of ${indexes.length}` : "";
  }

  private fail(problem: Problem): void {
    this.setMessage(problem.text);
    this.message.classList.add("is-problem");
    this.retry.hidden = !problem.needsKey;
    if (this.spoken.textContent !== problem.text) this.spoken.textContent = problem.text;
  }

  private showFacts(shown: { name: string; value: string; title: string }[]): void {
    const rows = shown.map(({ name, value, title }) =>
      element("div", { title }, element("dt", { textContent: name }), element("dd", { textContent: value })),
    );
    this.facts.replaceChildren(...rows);
  }

  private refresh(): void {
    const ghost = this.editor ? this.completer.ghost : null;
    const hasEdit = this.editor ? this.proposer.isShown : false;
    const n = ghost ? fitting(ghost).length : 0;
    const enabled = [ghost !== null || hasEdit, ghost !== null, n > 1, n > 1, ghost !== null || hasEdit, true];
    this.actions.enable((i) => enabled[i]!);
    if (ghost && n > 1 && !this.message.classList.contains("is-problem")) this.setMessage(this.doneText());
  }
}
