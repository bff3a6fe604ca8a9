/** The buttons below the editor, which show the keys as well: a touch screen has no Tab key. */

import { element } from "../element";

export interface Action {
  label: string;
  keys: string[];
  run: () => boolean;
}

const isMac = /Mac|iP(hone|ad)/.test(navigator.platform);

/** Keys as this system names them. */
export const KEYS = { word: isMac ? ["⌘", "→"] : ["Ctrl", "→"], alt: isMac ? "⌥" : "Alt" };

/** A row of buttons that leave the focus where it is. */
export class ActionRow {
  readonly box: HTMLElement;
  private readonly buttons: HTMLButtonElement[];

  constructor(actions: Action[]) {
    this.buttons = actions.map(({ label, keys, run }) => {
      const legend = keys.flatMap((key) => [" ", element("kbd", { textContent: key })]);
      const button = element("button", { type: "button" }, label, ...legend);
      button.addEventListener("mousedown", (event) => event.preventDefault());
      button.addEventListener("click", run);
      return button;
    });
    this.box = element("div", { className: "actions", attributes: { role: "group", "aria-label": "Completion" } }, ...this.buttons);
  }

  /** Enable the buttons with these indexes. */
  enable(isEnabled: (index: number) => boolean): void {
    for (const [i, button] of this.buttons.entries()) if (button.disabled === isEnabled(i)) button.disabled = !isEnabled(i);
  }
}
