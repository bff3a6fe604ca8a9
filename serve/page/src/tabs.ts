/** The tabs at the top, operated by mouse and by arrow keys; the address's fragment names the open one. */

export interface View {
  /** Called when the view is opened. */
  open(): void;
  /** Called when another view is opened. */
  close(): void;
}

/** Show one view at a time. `views` maps the ids of the panels in index.html to their views. */
export function showTabs(views: Record<string, View>): void {
  const tabs = [...document.querySelectorAll<HTMLElement>("[role=tab]")];
  const nameOf = (tab: HTMLElement): string => tab.getAttribute("aria-controls")!;
  let shown = "";

  function show(name: string, focus = false): void {
    if (name === shown) return;
    views[shown]?.close();
    shown = name;
    for (const tab of tabs) {
      const isShown = nameOf(tab) === name;
      tab.setAttribute("aria-selected", String(isShown));
      tab.tabIndex = isShown ? 0 : -1;
      document.getElementById(nameOf(tab))!.hidden = !isShown;
      if (isShown && focus) tab.focus();
    }
    history.replaceState(null, "", `#${name}`);
    views[name]?.open();
  }

  const named = (): string => (location.hash.slice(1) in views ? location.hash.slice(1) : nameOf(tabs[0]!));
  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("click", () => show(nameOf(tab)));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) show(nameOf(tabs[(i + step + tabs.length) % tabs.length]!), true);
    });
  }
  window.addEventListener("hashchange", () => show(named()));
  show(named());
}
