// What the server serves, as GET /info tells: models, their tasks, the limits.

import { counted, element, find } from "./dom.js";
import { getJson, Refusal } from "./server.js";
import { showLimits } from "./texts.js";

/** @typedef {{labels: string[], problem_type: string, pair: boolean, threshold: number | null}} Task */
/**
 * @typedef {object} Model
 * @property {string} name
 * @property {string} revision
 * @property {string[]} languages
 * @property {number} embedding_dimension
 * @property {Record<string, Task>} tasks
 * @property {number} max_tokens
 * @property {{precision: string, provider: string}} runtime
 */

const LOADING_MS = 1000;

/** @type {Model[]} */
let models = [];
let chosen = 0;

/** @returns {Model | undefined} undefined until the server has said what it serves */
export function model() {
  return models[chosen];
}

/** @returns {{model?: string}} what a body says of the model: nothing where there is one only */
export function modelField() {
  const name = model()?.name;
  return models.length > 1 && name ? { model: name } : {};
}

/**
 * Asks until there is an answer, telling in words what it waits for.
 *
 * @param {() => void} onChange called when the models are known, and when another is chosen
 */
export async function learnWhatIsServed(onChange) {
  const facts = find("facts", HTMLElement);
  for (;;) {
    try {
      show(await getJson("info"), onChange);
      return;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      facts.textContent = `${error.message} Asking again.`;
      await new Promise((resolve) => setTimeout(resolve, error.retryAfterMs ?? LOADING_MS));
    }
  }
}

/**
 * @param {any} info
 * @param {() => void} onChange
 */
function show(info, onChange) {
  models = info.models.map(withFittedHeads);
  chosen = 0;
  const rest = element("span");
  const changed = () => {
    const now = model();
    if (!now) return;
    rest.textContent = describe(now);
    showLimits({ texts: info.limits.max_texts_per_request, tokens: now.max_tokens });
    onChange();
  };
  find("facts", HTMLElement).replaceChildren(name(changed), " ", rest);
  changed();
}

/**
 * A head that was fitted on a model is asked like the model's own.
 *
 * @param {Model & {fitted_heads: Record<string, Task>}} told
 * @returns {Model}
 */
function withFittedHeads(told) {
  return { ...told, tasks: { ...told.tasks, ...told.fitted_heads } };
}

/** @param {Model} of */
function describe({ revision, languages, embedding_dimension: dimension, runtime }) {
  const device = runtime.provider.replace("ExecutionProvider", "");
  const facts = [counted(languages.length, "language"), counted(dimension, "dimension")];
  return `${revision}, ${facts.join(", ")}, ${runtime.precision} on ${device}`;
}

/**
 * The model's name, or a choice of names where there are several.
 *
 * @param {() => void} onChange
 */
function name(onChange) {
  if (models.length < 2) return element("strong", {}, model()?.name ?? "");
  const options = models.map((each, index) => element("option", { value: index }, each.name));
  const select = element("select", { id: "model", "aria-label": "Model" }, ...options);
  select.addEventListener("change", () => {
    chosen = Number(select.value);
    onChange();
  });
  return select;
}
