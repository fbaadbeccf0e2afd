// The two panels that give labels: a task of the model's, and labels of one's own.

import { element, find } from "./dom.js";
import { bars } from "./bars.js";
import { model, modelField } from "./served.js";
import { Slip, texts, truncate } from "./texts.js";

/** @type {import("./outcome.js").Mode} */
export const classify = {
  name: "classify",
  call() {
    const task = find("task", HTMLSelectElement).value;
    if (!task) throw new Slip("This model has no task of its own. Use labels of your own.");
    const pair = model()?.tasks[task]?.pair ?? false;
    const body = {
      texts: pair ? texts().map(split) : texts(),
      task,
      top_k: number("top-k", "Labels to show"),
      threshold: number("threshold", "Least probability"),
      ...shared(),
    };
    return { path: "classify", body: without(body) };
  },
  show: (answer, call) => [bars(answer, call.body.texts)],
};

/** @type {import("./outcome.js").Mode} */
export const zeroShot = {
  name: "zero-shot",
  call() {
    const body = {
      texts: texts(),
      labels: labels(find("labels", HTMLTextAreaElement).value),
      template: find("template", HTMLInputElement).value || undefined,
      multi_label: find("multi-label", HTMLInputElement).checked || undefined,
      ...shared(),
    };
    return { path: "classify", body: without(body) };
  },
  show: (answer, call) => [bars(answer, call.body.texts)],
};

/** Offers the tasks of the model that is chosen. */
export function showTasks() {
  const select = find("task", HTMLSelectElement);
  const tasks = model()?.tasks ?? {};
  const before = select.value;
  const names = Object.keys(tasks);
  select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  select.disabled = names.length === 0;
  const most = names.reduce((one, other) => (size(tasks[other]) > size(tasks[one]) ? other : one), names[0] ?? "");
  select.value = names.includes(before) ? before : most;
  describeTask();
}

/** @param {import("./served.js").Task | undefined} task */
function size(task) {
  return task?.labels.length ?? 0;
}

/** Says which labels the chosen task has, and how it wants its texts. */
export function describeTask() {
  const task = model()?.tasks[find("task", HTMLSelectElement).value];
  const kind = task?.problem_type === "multi" ? "any number of" : "one of";
  const pair = task?.pair ? " It reads pairs: write one pair a line, with | between its two texts." : "";
  find("task-hint", HTMLElement).textContent = task
    ? `Gives ${kind} ${task.labels.length} labels: ${task.labels.join(", ")}.${pair}`
    : "This model has no task of its own.";
}

function shared() {
  return { truncate: truncate() || undefined, ...modelField() };
}

/**
 * Without what was left open, so that the call says no more than the form.
 *
 * @param {Record<string, any>} body
 */
function without(body) {
  return Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined));
}

/**
 * @param {string} line
 * @param {number} index
 */
function split(line, index) {
  const sides = line.split("|").map((side) => side.trim());
  if (sides.length !== 2) {
    throw new Slip(`Text ${index + 1} is no pair: this task reads two texts with one | between them.`);
  }
  return sides;
}

/**
 * @param {string} id
 * @param {string} label
 * @returns {number | undefined} undefined where the field is empty
 */
function number(id, label) {
  const field = find(id, HTMLInputElement);
  if (field.validity.badInput) throw new Slip(`“${label}” is not a number.`);
  return field.value === "" ? undefined : Number(field.value);
}

/**
 * A list of labels, or an object of descriptions by label where any has one.
 *
 * @param {string} written
 */
function labels(written) {
  const pairs = written.split(/\r?\n/).filter((line) => line.trim()).map((line) => {
    const at = line.indexOf(":");
    const [label, description] = at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 1)];
    return [label.trim(), description.trim()];
  });
  if (pairs.length === 0) throw new Slip("There is no label. Write one per line.");
  const names = pairs.map(([label]) => label);
  if (pairs.every(([, description]) => !description)) return names;
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw new Slip(`“${twice}” is described twice.`); // one would be lost
  return Object.fromEntries(pairs.map(([label, description]) => [label, description || label]));
}
