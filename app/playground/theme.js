// Sets the theme before the first paint, so this one file is no module: modules run later.
"use strict";

{
  const KEPT = "lightmbert-theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");

  /** @returns {string} "auto", "light" or "dark" */
  const chosen = () => {
    try {
      return localStorage.getItem(KEPT) ?? "auto";
    } catch {
      return "auto"; // storage is switched off
    }
  };

  /** @param {string} choice */
  const keep = (choice) => {
    try {
      localStorage.setItem(KEPT, choice);
    } catch {
      // then it holds for this visit only
    }
  };

  /** @param {string} choice */
  const apply = (choice) => {
    const theme = choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
    document.documentElement.dataset.theme = theme;
  };

  apply(chosen());
  addEventListener("DOMContentLoaded", () => {
    const select = document.getElementById("theme");
    if (!(select instanceof HTMLSelectElement)) return;
    select.value = chosen();
    select.addEventListener("change", () => {
      keep(select.value);
      apply(select.value);
    });
    dark.addEventListener("change", () => apply(select.value));
  });
}
