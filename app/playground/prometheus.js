// The Prometheus text format, as far as its histograms, counters and gauges are needed here.

/** @typedef {{name: string, labels: Record<string, string>, value: number}} Sample */
/**
 * @typedef {object} Histogram
 * @property {number[]} bounds upper bounds of the buckets, rising, the last one infinite
 * @property {number[]} counts observations up to each bound
 * @property {number} sum of what was observed
 */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = /\\(.)/g;

/**
 * @param {string} text
 * @returns {Sample[]}
 */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const [, name, labels = "", value = ""] = LINE.exec(line) ?? []; // comments begin with #
    if (name) samples.push({ name, labels: labelsIn(labels), value: number(value) });
  }
  return samples;
}

/** @param {string} text */
function labelsIn(text) {
  /** @type {Record<string, string>} */
  const labels = {};
  for (const [, name = "", value = ""] of text.matchAll(LABEL)) {
    labels[name] = value.replace(ESCAPES, (_, escaped) => (escaped === "n" ? "\n" : escaped));
  }
  return labels;
}

/** @param {string} value */
function number(value) {
  return Number(value.replace("Inf", "Infinity"));
}

/**
 * The sum of all series of that name: 0 where there is none.
 *
 * @param {Sample[]} samples
 * @param {string} name
 * @param {(labels: Record<string, string>) => boolean} [wanted]
 */
export function total(samples, name, wanted = () => true) {
  return samples
    .filter((sample) => sample.name === name && wanted(sample.labels))
    .reduce((sum, { value }) => sum + value, 0);
}

/**
 * The histograms of that name, added up within each value of a label, or all in one under "".
 *
 * @param {Sample[]} samples
 * @param {string} name
 * @param {string} [by]
 * @returns {Map<string, Histogram>}
 */
export function histograms(samples, name, by = "") {
  /** @type {Map<string, Map<number, number>>} */
  const buckets = new Map();
  /** @type {Map<string, number>} */
  const sums = new Map();
  for (const sample of samples) {
    const key = sample.labels[by] ?? "";
    if (sample.name === `${name}_sum`) sums.set(key, (sums.get(key) ?? 0) + sample.value);
    if (sample.name !== `${name}_bucket`) continue;
    const bound = number(sample.labels.le ?? "NaN");
    const counts = buckets.get(key) ?? new Map();
    buckets.set(key, counts.set(bound, (counts.get(bound) ?? 0) + sample.value));
  }
  return new Map([...buckets].map(([key, counts]) => {
    const bounds = [...counts.keys()].sort((one, other) => one - other);
    const sum = sums.get(key) ?? 0;
    return [key, { bounds, counts: bounds.map((bound) => counts.get(bound) ?? 0), sum }];
  }));
}

/**
 * What was observed between two readings of one histogram.
 *
 * @param {Histogram} later
 * @param {Histogram | undefined} earlier
 * @returns {Histogram}
 */
export function between(later, earlier) {
  const counts = later.counts.map((count, index) => count - (earlier?.counts[index] ?? 0));
  return { bounds: later.bounds, counts, sum: later.sum - (earlier?.sum ?? 0) };
}

/** @param {Histogram} histogram */
export function observations(histogram) {
  return histogram.counts.at(-1) ?? 0;
}

/**
 * The quantile, taking what a bucket holds as spread evenly over it. What lies above the last
 * finite bound is told as that bound.
 *
 * @param {Histogram} histogram
 * @param {number} q from 0 to 1
 * @returns {number | undefined} undefined where nothing was observed
 */
export function quantile({ bounds, counts }, q) {
  const all = counts.at(-1) ?? 0;
  if (all <= 0) return undefined;
  const rank = q * all;
  const index = counts.findIndex((count) => count >= rank);
  const upper = bounds[index] ?? Infinity;
  const lower = index > 0 ? bounds[index - 1] ?? 0 : 0;
  if (upper === Infinity) return lower;
  const below = index > 0 ? counts[index - 1] ?? 0 : 0;
  const inside = (counts[index] ?? 0) - below;
  return lower + (upper - lower) * (inside ? (rank - below) / inside : 1);
}
