// Tabs as the ARIA practices describe them: one tab stop, arrows move and select.

/** @param {HTMLElement} list the element of role tablist */
export function setUpTabs(list) {
  const tabs = [...list.querySelectorAll("button")];

  /** @param {HTMLButtonElement} chosen */
  const select = (chosen) => {
    for (const tab of tabs) {
      const on = tab === chosen;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      const panel = document.getElementById(tab.getAttribute("aria-controls") ?? "");
      if (panel) panel.hidden = !on;
    }
  };

  for (const [index, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const places = {
        ArrowRight: index + 1,
        ArrowLeft: index - 1 + tabs.length,
        Home: 0,
        End: tabs.length - 1,
      };
      const place = places[/** @type {keyof typeof places} */ (event.key)];
      if (place === undefined) return;
      event.preventDefault();
      const next = /** @type {HTMLButtonElement} */ (tabs[place % tabs.length]);
      select(next);
      next.focus();
    });
  }
  if (tabs[0]) select(tabs[0]);
}
