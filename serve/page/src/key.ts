/** Dialog that asks for an API key. */

import { element } from "./element";

let open: Promise<string> | undefined;

/** Ask for an API key; "" if the user cancels. Several callers at once share one dialog. */
export function askForKey(): Promise<string> {
  open ??= show().finally(() => (open = undefined));
  return open;
}

function show(): Promise<string> {
  const input = element("input", { type: "password", autocomplete: "off", required: true, id: "api-key" });
  const cancel = element("button", { type: "button", textContent: "Cancel" });
  const form = element(
    "form",
    { method: "dialog" },
    element("label", { htmlFor: "api-key", textContent: "This server requires an API key:" }),
    input,
    element("p", { textContent: "The key is kept in this page's memory until you close or reload it." }),
    element("button", { type: "submit", textContent: "Use key" }),
    cancel,
  );
  const dialog = element("dialog", { attributes: { "aria-label": "API key" } }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    cancel.addEventListener("click", () => dialog.close());
    form.addEventListener("submit", () => dialog.close(input.value));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}
