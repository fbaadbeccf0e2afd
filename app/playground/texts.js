// The texts: lines of one field, filled by hand or from examples.

import { button, counted, find } from "./dom.js";
import { LANGUAGES, SETS, sentence } from "./examples.js";

/** Whatever the page itself cannot send, in words. */
export class Slip extends Error {}

const field = () => find("texts", HTMLTextAreaElement);

/** @returns {{text: string, line: number}[]} lines that hold something, with their numbers from 0 */
function lines() {
  return field()
    .value.split(/\r?\n/)
    .map((text, line) => ({ text: text.trim(), line }))
    .filter(({ text }) => text !== "");
}

/**
 * @returns {string[]} at least one text
 * @throws {Slip}
 */
export function texts() {
  const given = lines().map(({ text }) => text);
  if (given.length === 0) throw new Slip("There is no text. Type one, or fill in examples.");
  return given;
}

/** Whether texts that are too long may be cut. */
export function truncate() {
  return find("truncate", HTMLInputElement).checked;
}

/**
 * Selects the line of a text in the field, and gives it the focus.
 *
 * @param {number} index of the text
 */
export function showText(index) {
  const line = lines()[index]?.line;
  if (line === undefined) return;
  const all = field().value.split("\n");
  const start = all.slice(0, line).join("\n").length + (line > 0 ? 1 : 0);
  field().focus();
  field().setSelectionRange(start, start + (all[line] ?? "").length);
}

/** @param {() => void} onRun called on Ctrl + Enter */
export function setUpTexts(onRun) {
  const sets = SETS.map((set) => button(set.name, () => fill(set.texts())));
  find("example-sets", HTMLElement).append(...sets);
  find("example-languages", HTMLElement).append(...LANGUAGES.map(adder));
  field().addEventListener("input", count);
  field().addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    onRun();
  });
  if (!field().value) fill(SETS[0]?.texts() ?? []); // a reload keeps what was typed
  count();
}

let limits = "";

/** @param {{texts: number, tokens: number}} most of a request, and of one text */
export function showLimits(most) {
  const tokens = counted(most.tokens, "token");
  limits = `at most ${most.texts.toLocaleString("en")}, each of at most ${tokens}`;
  count();
}

function count() {
  const now = counted(lines().length, "text");
  find("texts-count", HTMLElement).textContent = limits ? `${now}; ${limits}.` : `${now}.`;
}

/** @param {string[]} given */
function fill(given) {
  field().value = given.join("\n");
  count();
}

/**
 * @param {import("./examples.js").Language} language
 * @param {number} index
 */
function adder(language, index) {
  let next = index;
  const add = () => {
    const before = field().value.replace(/\s+$/, "");
    field().value = (before ? `${before}\n` : "") + sentence(index, next++);
    field().scrollTop = field().scrollHeight;
    count();
  };
  return button(language.name, add, { lang: language.tag });
}
