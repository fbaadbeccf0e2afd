// Readings of /metrics over time, and what they say of the last seconds.

import { between, histograms, observations, parse, quantile, total } from "./prometheus.js";

/** @typedef {import("./prometheus.js").Histogram} Histogram */
/**
 * @typedef {object} Reading
 * @property {number} atMs
 * @property {Map<string, Histogram>} stages in seconds, by name; `total` is the whole request
 * @property {Histogram | undefined} batch texts per batch
 * @property {number} requests answered so far, whatever the answer
 * @property {number} refused of those, with 429
 * @property {number} queueTexts waiting now
 * @property {number} queueTokens waiting now
 */
/**
 * @typedef {object} Recent
 * @property {Map<string, {p50: number, p99: number} | undefined>} stages in ms; undefined where
 *   nothing passed the stage
 * @property {Histogram | undefined} batch
 * @property {number} requestsPerS
 * @property {number} refused
 * @property {number} queueTexts
 * @property {number} queueTokens
 */

const WINDOW_MS = 10_000;
const ORDER = ["total", "tokenize", "queue", "run", "serialize"];

/**
 * @param {string} text of /metrics
 * @param {number} atMs
 * @returns {Reading}
 */
export function read(text, atMs) {
  const samples = parse(text);
  const stages = histograms(samples, "lightmbert_stage_duration_seconds", "stage");
  const whole = histograms(samples, "lightmbert_request_duration_seconds").get("");
  if (whole) stages.set("total", whole);
  return {
    atMs,
    stages,
    batch: histograms(samples, "lightmbert_batch_texts").get(""),
    requests: total(samples, "lightmbert_requests_total"),
    refused: total(samples, "lightmbert_requests_total", ({ status }) => status === "429"),
    queueTexts: total(samples, "lightmbert_queue_texts"),
    queueTokens: total(samples, "lightmbert_queue_tokens"),
  };
}

/** The readings of the last seconds. */
export class Readings {
  /** @type {Reading[]} */
  #kept = [];

  /**
   * @param {Reading} reading
   * @returns {Recent | undefined} undefined for the first one, which has nothing to compare with
   */
  add(reading) {
    const last = this.#kept.at(-1);
    if (last && reading.requests < last.requests) this.#kept = []; // the server began anew
    this.#kept.push(reading);
    while (this.#kept.length > 2 && reading.atMs - (this.#kept[1]?.atMs ?? 0) >= WINDOW_MS) {
      this.#kept.shift();
    }
    const first = this.#kept[0];
    return first && first !== reading ? recent(reading, first) : undefined;
  }

  /** Forgets all, where time has passed that nobody watched. */
  clear() {
    this.#kept = [];
  }
}

/**
 * @param {Reading} later
 * @param {Reading} earlier
 * @returns {Recent}
 */
function recent(later, earlier) {
  const names = [...later.stages.keys()].sort((one, other) => place(one) - place(other));
  return {
    stages: new Map(names.map((name) => [name, milliseconds(later, earlier, name)])),
    batch: later.batch && between(later.batch, earlier.batch),
    requestsPerS: (1000 * (later.requests - earlier.requests)) / (later.atMs - earlier.atMs),
    refused: later.refused - earlier.refused,
    queueTexts: later.queueTexts,
    queueTokens: later.queueTokens,
  };
}

/** @param {string} stage */
function place(stage) {
  const index = ORDER.indexOf(stage);
  return index < 0 ? ORDER.length : index;
}

/**
 * @param {Reading} later
 * @param {Reading} earlier
 * @param {string} name
 */
function milliseconds(later, earlier, name) {
  const now = later.stages.get(name);
  if (!now) return undefined;
  const passed = between(now, earlier.stages.get(name));
  if (observations(passed) === 0) return undefined;
  return { p50: 1000 * (quantile(passed, 0.5) ?? 0), p99: 1000 * (quantile(passed, 0.99) ?? 0) };
}
