// What went wrong, in words, with what to do about it.

import { button, element } from "./dom.js";
import { Refusal } from "./server.js";
import { showText, Slip } from "./texts.js";

/** @type {Record<number, string>} */
const TITLES = {
  0: "The server cannot be reached",
  400: "The server could not read this",
  401: "A key is needed",
  403: "Nobody may do this here",
  404: "This server does not know the route",
  413: "This is too large for one request",
  422: "The server cannot use this input",
  429: "The server is busy",
  500: "The server failed",
  503: "The server is not ready",
  504: "The answer came too late",
};

const WORTH_RETRYING = [0, 429, 500, 502, 503, 504];

/** @type {Record<string, string>} the field that holds each parameter */
const FIELDS = {
  texts: "texts",
  task: "task",
  top_k: "top-k",
  threshold: "threshold",
  labels: "labels",
  template: "template",
  multi_label: "multi-label",
  model: "model",
};

/**
 * @param {unknown} error
 * @param {() => void} retry
 * @returns {Node[]} to be put where it is read out
 */
export function inWords(error, retry) {
  if (error instanceof Slip) return [title("Nothing was sent"), element("p", {}, error.message)];
  if (!(error instanceof Refusal)) {
    return [title("The page failed"), element("p", {}, `${error}`)];
  }
  const told = [title(TITLES[error.status] ?? `The server answered ${error.status}`)];
  const remedies = [...places(error.param), ...retries(error, retry)];
  return [
    ...told,
    element("p", {}, error.message),
    ...when(error),
    ...(remedies.length ? [element("div", { class: "bar" }, ...remedies)] : []),
    ...names(error),
  ];
}

/** @param {string} words */
function title(words) {
  return element("h3", {}, words);
}

/** @param {Refusal} error */
function when(error) {
  if (error.retryAfterMs === undefined) return [];
  return [element("p", {}, `It asks you to come back in ${seconds(error.retryAfterMs)}.`)];
}

/** @param {Refusal} error */
function names(error) {
  if (error.status === 0) return [];
  const parts = [`Status ${error.status}`];
  if (error.code) parts.push(`code ${error.code}`);
  if (error.param) parts.push(`param ${error.param}`);
  return [element("p", { class: "hint" }, element("code", {}, parts.join(", ")))];
}

/**
 * A button that leads to the field at fault.
 *
 * @param {string} param such as `texts[3]`
 */
function places(param) {
  const [, name = "", index] = /^(\w+)(?:\[(\d+)\])?/.exec(param) ?? [];
  if (name === "texts" && index !== undefined) {
    return [button(`Show text ${Number(index) + 1}`, () => showText(Number(index)))];
  }
  const field = document.getElementById(FIELDS[name] ?? "");
  return field ? [button("Show the field", () => field.focus())] : [];
}

/**
 * A button that is of use when the server said it would be.
 *
 * @param {Refusal} error
 * @param {() => void} retry
 */
function retries(error, retry) {
  if (!WORTH_RETRYING.includes(error.status)) return [];
  const again = button("Try again", retry);
  const due = performance.now() + (error.retryAfterMs ?? 0);
  const count = () => {
    const left = due - performance.now();
    again.disabled = left > 0;
    again.textContent = left > 0 ? `Try again in ${seconds(left)}` : "Try again";
    if (left > 0) setTimeout(count, Math.min(left, 250));
  };
  count();
  return [again];
}

/** @param {number} ms */
function seconds(ms) {
  return `${Math.max(1, Math.ceil(ms / 1000))} s`;
}
