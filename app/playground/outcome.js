// One panel's form: sends its call, says how it stands, and shows what came of it.

import { button, counted, element, find } from "./dom.js";
import { askForKey } from "./key.js";
import { inWords } from "./problems.js";
import { post, Refusal } from "./server.js";
import { showSnippets } from "./snippets.js";

/** @typedef {{path: string, body: Record<string, any>}} Call */
/**
 * @typedef {object} Mode
 * @property {string} name as in the ids of its form and panel
 * @property {() => Call} call what the form asks for; raises a Slip where it cannot be asked
 * @property {(answer: any, call: Call) => Node[]} show
 */

/** @param {Mode} mode */
export function setUpMode(mode) {
  const form = find(`form-${mode.name}`, HTMLFormElement);
  const state = element("span", { role: "status" });
  const problem = element("div", { role: "alert" });
  const results = element("div", { class: "results" });
  /** @type {AbortController | undefined} */
  let running;
  const cancel = button("Cancel", () => running?.abort(), { class: "plain" });
  cancel.hidden = true;
  const line = element("div", { class: "state" }, state, cancel);
  find(`panel-${mode.name}`, HTMLElement).append(
    element("div", { class: "outcome" }, line, problem, results),
  );

  const run = async () => {
    running?.abort();
    const mine = (running = new AbortController());
    const began = performance.now();
    problem.replaceChildren();
    problem.className = "";
    try {
      const call = mode.call();
      state.textContent = "Waiting for the server…";
      cancel.hidden = false;
      const answer = await post(call.path, call.body, mine.signal);
      const took = performance.now() - began;
      results.replaceChildren(...mode.show(answer, call));
      state.textContent = summary(answer, took);
      showSnippets(call);
    } catch (error) {
      if (mine !== running) return; // a later run has taken its place
      results.replaceChildren();
      state.textContent = mine.signal.aborted ? "Cancelled." : "";
      if (mine.signal.aborted) return;
      problem.className = "problem";
      problem.replaceChildren(...inWords(error, () => void run()));
      if (error instanceof Refusal && error.status === 401) askForKey();
    } finally {
      if (mine === running) cancel.hidden = true;
    }
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void run();
  });
}

/**
 * @param {any} answer
 * @param {number} ms from sending to having the answer
 */
function summary(answer, ms) {
  const { texts, tokens, truncated } = answer.usage;
  const cut = truncated.length ? `, ${counted(truncated.length, "text")} cut` : "";
  return `${counted(texts, "text")}, ${counted(tokens, "token")}${cut}; ${ms.toFixed(1)} ms there and back.`;
}
