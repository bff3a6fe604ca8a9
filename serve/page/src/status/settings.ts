/** The server's options, read when they are opened. */

import { element } from "../element";
import { json, ServerError } from "../server";
import type { SettingsAnswer, SettingStatus } from "./answers";
import { setText } from "./rows";
import { type Column, table } from "./table";
import { count, NOTHING } from "../units";

const COLUMNS: Column<SettingStatus>[] = [
  { head: "Option", text: (s) => s.flag },
  {
    head: "Value",
    draw: (cell) => {
      const value = element("span");
      cell.append(value);
      return (s) => {
        setText(value, s.value || NOTHING);
        value.className = s.is_default ? "setting" : "setting changed";
        value.title = s.is_default ? "default" : "changed";
      };
    },
  },
  { head: "Meaning", text: (s) => s.help },
];

/** Return the settings that contain every word of a query, in any field. */
export function matching(settings: readonly SettingStatus[], query: string): SettingStatus[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  return settings.filter((s) => {
    const text = `${s.flag} ${s.value} ${s.help}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
}

/** Make the closed list of options. */
export function settings(): HTMLElement {
  let all: SettingStatus[] = [];
  const filter = element("input", { type: "search", id: "settings-filter", placeholder: "Filter" });
  const onlyChanged = element("input", { type: "checkbox", id: "settings-changed" });
  const number = element("span", { className: "soft" });
  const rows = table("Options of the server", COLUMNS, (s) => s.flag, "No option matches.");
  const fault = element("p", { className: "fault", hidden: true, attributes: { role: "alert" } });

  function show(): void {
    const found = matching(all, filter.value).filter((s) => !onlyChanged.checked || !s.is_default);
    rows.update(found);
    setText(number, `${count(found.length)} of ${count(all.length)}`);
  }
  async function read(): Promise<void> {
    fault.hidden = true;
    try {
      all = (await json<SettingsAnswer>("/status/settings")).settings;
      show();
    } catch (e) {
      fault.hidden = false;
      fault.textContent = e instanceof ServerError ? e.message : String(e);
    }
  }
  filter.addEventListener("input", show);
  onlyChanged.addEventListener("change", show);
  rows.element.classList.add("settings");
  const box = element(
    "details",
    { className: "settings-box" },
    element("summary", {}, element("h2", {}, "Settings")),
    element(
      "div",
      { className: "tools" },
      element("label", { htmlFor: "settings-filter", className: "unseen" }, "Filter the settings"),
      filter,
      element("label", { htmlFor: "settings-changed" }, onlyChanged, " only changed ones"),
      number,
    ),
    fault,
    rows.element,
  );
  box.addEventListener("toggle", () => void (box.open && read()));
  return box;
}
