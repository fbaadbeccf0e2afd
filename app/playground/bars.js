// A bar per label and text. The number is the message; the bar only helps the eye.

import { element, filled } from "./dom.js";

/** @typedef {{label: string, score: number}} Score */
/** @typedef {{label: string | null, score: number, scores: Score[]}} Result */

/**
 * @param {{results: Result[], usage: {truncated: number[]}}} answer
 * @param {(string | string[])[]} texts
 */
export function bars(answer, texts) {
  const cut = new Set(answer.usage.truncated);
  const rows = answer.results.map((result, index) => row(texts[index] ?? "", result, cut.has(index)));
  return element("ol", { class: "classified" }, ...rows);
}

/**
 * @param {string | string[]} text
 * @param {Result} result
 * @param {boolean} cut
 */
function row(text, result, cut) {
  const shown = typeof text === "string" ? text : text.join(" | ");
  const said = element("div", {}, element("p", { class: "text", dir: "auto" }, shown));
  if (cut) said.append(element("p", { class: "cut" }, "Only its beginning was read."));
  return element("li", {}, said, scores(result));
}

/** @param {Result} result */
function scores(result) {
  const list = element("ul", { class: "scores" });
  if (result.label === null) {
    const none = `No label reaches the least probability; the best has ${percent(result.score)}.`;
    list.append(element("li", {}, element("span", { class: "none" }, none)));
  }
  for (const { label, score } of result.scores) {
    const best = label === result.label ? " best" : "";
    list.append(element(
      "li", {},
      element("span", { class: `label${best}`, dir: "auto" }, label),
      element("span", { class: `track${best}`, "aria-hidden": "true" }, filled(element("div", { class: "fill" }), score)),
      element("span", { class: `number${best}` }, percent(score)),
    ));
  }
  return list;
}

/** @param {number} score */
function percent(score) {
  return `${(100 * score).toFixed(1)} %`;
}
