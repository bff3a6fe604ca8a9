/** The set-up view: settings of each editor for this server, and a check. */

import { element } from "../element";
import { json, ServerError } from "../server";
import type { View } from "../tabs";
import { check } from "./check";
import { type EditorsAnswer, type EditorStatus, grouped, matching } from "./editors";
import { marked, settingBlocks } from "./settings";

/** Fill the panel. The settings are read when it is opened, and again for another model. */
export function setup(panel: HTMLElement): View {
  let answer: EditorsAnswer = { editors: [], key_placeholder: "" };
  let chosen = "";
  let model = "";
  const fault = element("p", { className: "fault", hidden: true, attributes: { role: "alert" } });
  const filter = element("input", { type: "search", id: "editor-filter", placeholder: "Editor or plugin" });
  const list = element("nav", { attributes: { "aria-label": "Editors and clients" } });
  const models = element("select", { id: "setup-model" });
  const modelChoice = element("label", { htmlFor: "setup-model", hidden: true }, "Model ", models);
  const details = element("section", { className: "editor", attributes: { "aria-live": "off" } });

  async function read(): Promise<void> {
    fault.hidden = true;
    const query = new URLSearchParams({ scheme: location.protocol.slice(0, -1) });
    if (model) query.set("model", model);
    try {
      answer = await json<EditorsAnswer>(`/status/editors?${query}`);
      if (!models.options.length) await readModels();
      showList();
      choose(chosen || (answer.editors[0]?.name ?? ""));
    } catch (e) {
      fault.hidden = false;
      fault.textContent = e instanceof ServerError ? e.message : String(e);
    }
  }

  async function readModels(): Promise<void> {
    const { data } = await json<{ data: { id: string }[] }>("/v1/models");
    models.replaceChildren(...data.map(({ id }) => element("option", { value: id }, id)));
    model = data[0]?.id ?? "";
    modelChoice.hidden = data.length < 2;
  }

  function showList(): void {
    const groups = grouped(matching(answer.editors, filter.value)).map(({ title, editors }) =>
      element(
        "div",
        { className: "group", attributes: { role: "group", "aria-label": title } },
        element("p", { className: "group-title" }, title),
        ...editors.map(entry),
      ),
    );
    const none = answer.editors.length ? "No editor matches." : "This server has no settings of editors; see turbopilot editors.";
    list.replaceChildren(...(groups.length ? groups : [element("p", { className: "soft" }, none)]));
  }

  function entry(e: EditorStatus): HTMLElement {
    const isChosen = String(e.name === chosen);
    const button = element("button", { type: "button", attributes: { "data-name": e.name, "aria-current": isChosen } }, e.plugin);
    button.addEventListener("click", () => choose(e.name));
    return button;
  }

  function choose(name: string): void {
    const editor = answer.editors.find((e) => e.name === name);
    chosen = name;
    for (const button of list.querySelectorAll("[data-name]")) {
      button.setAttribute("aria-current", String(button.getAttribute("data-name") === name));
    }
    details.hidden = !editor;
    if (editor) details.replaceChildren(...shown(editor, answer.key_placeholder, model));
  }

  filter.addEventListener("input", showList);
  models.addEventListener("change", () => {
    model = models.value;
    void read();
  });
  panel.replaceChildren(
    fault,
    element(
      "div",
      { className: "setup-columns" },
      element(
        "div",
        { className: "choice" },
        element("label", { htmlFor: "editor-filter", className: "unseen" }, "Find an editor or plugin"),
        filter,
        modelChoice,
        list,
      ),
      details,
    ),
  );
  return { open: () => void read(), close: () => undefined };
}

function shown(e: EditorStatus, placeholder: string, model: string): HTMLElement[] {
  const [evidence = "", meaning = ""] = e.evidence.split(": ");
  const notes = e.notes.map((note) => element("li", {}, ...marked(note)));
  return [
    element(
      "header",
      {},
      element("h2", {}, e.plugin),
      element("p", { className: "soft" }, `for ${e.editor}`),
      element("span", { className: `badge ${evidence}`, title: meaning }, evidence),
    ),
    element("h3", {}, "Settings"),
    settingBlocks(e, placeholder),
    ...(notes.length ? [element("h3", {}, "Notes"), element("ul", { className: "notes" }, ...notes)] : []),
    element("h3", {}, "Check"),
    check(e, placeholder, model),
    element(
      "dl",
      { className: "origin soft" },
      element("dt", {}, "Evidence"),
      element("dd", {}, meaning),
      element("dt", {}, "Source"),
      element("dd", {}, e.source),
    ),
  ];
}
