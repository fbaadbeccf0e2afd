// How close each two texts are: a table of cosines, tinted by their size.

import { element, filled } from "./dom.js";
import { modelField } from "./served.js";
import { Slip, texts, truncate } from "./texts.js";

const MOST_TEXTS = 40;

/** @type {import("./outcome.js").Mode} */
export const similarity = {
  name: "similarity",
  call() {
    const given = texts();
    if (given.length < 2) throw new Slip("It takes two texts at least to compare them.");
    if (given.length > MOST_TEXTS) {
      throw new Slip(`The table holds ${MOST_TEXTS} texts; there are ${given.length}.`);
    }
    return {
      path: "embed",
      body: { texts: given, ...(truncate() ? { truncate: true } : {}), ...modelField() },
    };
  },
  show: (answer, call) => [heatmap(cosines(answer.embeddings), call.body.texts)],
};

/**
 * @param {number[][]} vectors one per text
 * @returns {number[][]} a cosine per two texts
 */
function cosines(vectors) {
  const lengths = vectors.map((vector) => Math.sqrt(dot(vector, vector)) || 1);
  return vectors.map((one, i) =>
    vectors.map((other, j) => dot(one, other) / ((lengths[i] ?? 1) * (lengths[j] ?? 1))),
  );
}

/**
 * @param {number[]} one
 * @param {number[]} other
 */
function dot(one, other) {
  return one.reduce((sum, value, index) => sum + value * (other[index] ?? 0), 0);
}

/**
 * @param {number[][]} table
 * @param {string[]} given the texts
 */
function heatmap(table, given) {
  const caption = element("caption", {}, "Cosine of each two texts. Bold and framed: the closest other text of its row.");
  const numbers = given.map((_, index) => element("th", { scope: "col" }, `${index + 1}`));
  const head = element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Text"), ...numbers));
  const rows = table.map((row, index) => {
    const text = element("bdi", {}, given[index] ?? "");
    const name = element("th", { scope: "row", title: given[index] }, element("b", {}, `${index + 1}`), " ", text);
    return element("tr", {}, name, ...cells(row, index));
  });
  const attributes = { class: "heatmap", role: "region", tabindex: 0, "aria-label": "Similarity of each two texts" };
  return element("div", attributes, element("table", {}, caption, head, element("tbody", {}, ...rows)));
}

/**
 * @param {number[]} row
 * @param {number} self its own place
 */
function cells(row, self) {
  const others = row.map((cosine, index) => (index === self ? -Infinity : cosine));
  const closest = others.indexOf(Math.max(...others));
  return row.map((cosine, index) => {
    const kind = index === self ? " self" : index === closest ? " closest" : "";
    const number = cosine.toFixed(2).replace("-", "−");
    const content = kind === " closest" ? element("strong", {}, number) : number;
    return filled(element("td", { class: `cell${kind}` }, content), cosine);
  });
}
