/** The code editor. */

import { defaultKeymap, history, historyKeymap, indentLess, indentMore } from "@codemirror/commands";
import { bracketMatching, indentOnInput, indentUnit } from "@codemirror/language";
import { EditorState, type Extension, Prec } from "@codemirror/state";
import {
  type Command,
  EditorView,
  highlightActiveLine,
  highlightActiveLineGutter,
  highlightSpecialChars,
  type KeyBinding,
  keymap,
  lineNumbers,
  type ViewUpdate,
} from "@codemirror/view";

import { element } from "../element";
import { editField } from "./edit_field";
import { ghostField } from "./ghost_field";
import { languageExtension } from "./languages";
import { opened, SAMPLES } from "./samples";
import { look } from "./theme";
import { escaped } from "./visible";

const HELP = "Tab accepts a completion, Escape dismisses it. Escape, then Tab, leaves the editor.";

/** Insert one level of indentation, or indent the selected lines. */
const indent: Command = (view) => {
  if (!view.state.selection.main.empty) return indentMore(view);
  view.dispatch(view.state.replaceSelection(view.state.facet(indentUnit)), { userEvent: "input" });
  return true;
};

const common: Extension = [
  lineNumbers(),
  highlightActiveLine(),
  highlightActiveLineGutter(),
  // The characters that text of a model hides are shown in the file as well.
  highlightSpecialChars({
    addSpecialChars: /[\u061c\u180e\u2060-\u206f\ufff9-\ufffb\u{e0001}\u{e0020}-\u{e007f}]/u,
    render: (code, description) => {
      const textContent = escaped(String.fromCodePoint(code));
      return element("span", { className: "cm-specialChar", title: description ?? "", textContent });
    },
  }),
  history(),
  indentOnInput(),
  bracketMatching(),
  ghostField,
  editField,
  look,
  matchMedia("(max-width: 820px)").matches ? EditorView.lineWrapping : [],
];

/** An editor whose keys are `keys`, and which reports each update. */
export class CodeEditor {
  readonly view: EditorView;
  private readonly states = new Map<string, EditorState>();

  /** The editor is in a shadow root: there CodeMirror's styles need no style element, which the page's policy forbids. */
  constructor(
    host: HTMLElement,
    public language: string,
    private readonly keys: KeyBinding[],
    private readonly updated: (update: ViewUpdate) => void,
  ) {
    const root = host.attachShadow({ mode: "open" });
    const parent = element("div", { className: "editor" });
    root.append(parent, element("p", { id: "help", hidden: true, textContent: HELP }));
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(":host { display: block } .editor { height: 100% }");
    root.adoptedStyleSheets = [sheet];
    this.view = new EditorView({ parent, root, state: this.fresh(language) });
  }

  /** Show a language's file as it was left, at first its sample. */
  open(language: string): void {
    this.states.set(this.language, this.view.state);
    this.language = language;
    this.view.setState(this.states.get(language) ?? this.fresh(language));
  }

  /** Show the language's sample again. */
  reset(): void {
    this.view.setState(this.fresh(this.language));
  }

  private fresh(language: string): EditorState {
    const sample = SAMPLES[language]!;
    const { text, cursor } = opened(sample);
    return EditorState.create({
      doc: text,
      selection: { anchor: cursor },
      extensions: [
        Prec.highest(keymap.of(this.keys)),
        keymap.of([...defaultKeymap, ...historyKeymap, { key: "Tab", run: indent, shift: indentLess }]),
        common,
        languageExtension(language),
        EditorView.contentAttributes.of({ "aria-label": `Code, ${sample.file}`, "aria-describedby": "help", tabindex: "0" }),
        EditorView.updateListener.of((update) => this.updated(update)),
      ],
    });
  }
}
