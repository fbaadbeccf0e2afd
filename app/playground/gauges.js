// Small drawings beside numbers: a course over time, and how many of each size.

import { element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 28;
const POINTS = 60;

/** @typedef {(number | undefined)[]} Course oldest first; undefined where there was nothing */

/** A term with its numbers in words and a drawing that repeats them. */
export class Gauge {
  /** @param {string} name */
  constructor(name) {
    this.words = element("dd", { class: "words" }, "–");
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.node = element("div", { class: "gauge" }, element("dt", {}, name), this.words);
    this.node.append(element("dd", {}, this.svg));
    /** @type {Course[]} */
    this.courses = [];
  }

  /**
   * Adds a point to each course and draws them to one scale.
   *
   * @param {(string | Node)[]} words
   * @param {...(number | undefined)} points
   */
  follow(words, ...points) {
    this.words.replaceChildren(...words);
    this.courses = points.map((point, index) => [...(this.courses[index] ?? []), point].slice(-POINTS));
    const most = Math.max(...this.courses.flat().map((value) => value ?? 0)) || 1;
    this.svg.replaceChildren(...this.courses.map((course, index) => line(course, most, index > 0)));
  }

  /**
   * @param {string} words
   * @param {number[]} sizes
   */
  compare(words, sizes) {
    this.words.replaceChildren(words);
    const most = Math.max(...sizes, 1);
    const width = WIDTH / Math.max(sizes.length, 1);
    const columns = sizes.map((size, index) => column(index * width, width - 1, (size / most) * (HEIGHT - 2)));
    this.svg.replaceChildren(...columns);
  }
}

/**
 * @param {Course} course
 * @param {number} most
 * @param {boolean} dashed
 */
function line(course, most, dashed) {
  const start = POINTS - course.length;
  let pen = "M";
  const steps = course.map((value, index) => {
    if (value === undefined) {
      pen = "M";
      return "";
    }
    const x = ((start + index) * WIDTH) / (POINTS - 1);
    const y = HEIGHT - 1 - (value / most) * (HEIGHT - 3);
    const step = pen === "M" ? `M${(x - 1).toFixed(1)} ${y.toFixed(1)}H${x.toFixed(1)}` : `L${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
    return step;
  });
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", steps.join(""));
  if (dashed) path.setAttribute("class", "dashed");
  return path;
}

/**
 * @param {number} x
 * @param {number} width
 * @param {number} height
 */
function column(x, width, height) {
  const rect = document.createElementNS(SVG, "rect");
  for (const [name, value] of Object.entries({ x, y: HEIGHT - height, width, height })) {
    rect.setAttribute(name, value.toFixed(1));
  }
  return rect;
}
