/** An editor's settings as blocks to copy. */

import { element } from "../element";
import { givenKey } from "../server";
import { type EditorStatus, sendsKey } from "./editors";
import { withKey } from "./quoting";

/** Make the blocks; `placeholder` stands for the API key in their texts, "" if there is none. */
export function settingBlocks(editor: EditorStatus, placeholder: string): HTMLElement {
  const fillsKey = element("input", { type: "checkbox", id: "with-key" });
  const blocks = editor.settings.map(({ where, format, text }) => {
    const code = element("code", {}, text);
    const copy = element("button", { type: "button", attributes: { "aria-label": `Copy: ${where}` } }, "Copy");
    const told = element("span", { className: "soft", attributes: { role: "status" } });
    copy.addEventListener("click", () => {
      const filled = fillsKey.checked ? withKey(text, format, placeholder, givenKey()) : text;
      void copied(filled, code).then((done) => {
        told.textContent = done ? "Copied" : "Press Ctrl+C";
        setTimeout(() => (told.textContent = ""), 2500);
      });
    });
    return element(
      "figure",
      { className: "setting-block" },
      element("figcaption", {}, element("span", {}, ...marked(where)), told, copy),
      element("pre", { tabIndex: 0, attributes: { "aria-label": where } }, code),
    );
  });
  if (!sendsKey(editor, placeholder) || !givenKey()) return element("div", { className: "blocks" }, ...blocks);
  const label = element("label", { htmlFor: "with-key", className: "with-key" }, fillsKey, "Copy with my key instead of ", element("code", {}, placeholder));
  return element("div", { className: "blocks" }, label, ...blocks);
}

/** Copy a text. Where pages may not, as at http:// addresses of other machines, select it and return false. */
async function copied(text: string, shown: HTMLElement): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Also if there is no clipboard: it is undefined outside of secure contexts.
  }
  const before = shown.textContent;
  shown.textContent = text;
  getSelection()?.selectAllChildren(shown);
  // With the key in it, the text is shown no longer than it takes to copy it.
  if (before !== text) document.addEventListener("copy", () => setTimeout(() => (shown.textContent = before)), { once: true });
  return false;
}

/** Return a text whose parts in backticks are code. */
export function marked(text: string): (string | HTMLElement)[] {
  return text.split("`").map((part, i) => (i % 2 ? element("code", {}, part) : part));
}
