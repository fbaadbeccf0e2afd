// The live strip: reads /metrics every two seconds while the page is in sight and not paused.

import { element, find } from "./dom.js";
import { Gauge } from "./gauges.js";
import { observations } from "./prometheus.js";
import { read, Readings } from "./readings.js";
import { getText, Refusal } from "./server.js";

const EVERY_MS = 2000;

/** @type {Map<string, Gauge>} */
const gauges = new Map();
const readings = new Readings();

/** @param {string} name */
function gauge(name) {
  let found = gauges.get(name);
  if (!found) {
    found = new Gauge(name);
    gauges.set(name, found);
    find("gauges", HTMLElement).append(found.node);
  }
  return found;
}

export function setUpStrip() {
  const note = find("strip-note", HTMLElement);
  const pause = find("strip-pause", HTMLButtonElement);
  const told = note.textContent ?? "";
  let paused = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @type {AbortController | undefined} */
  let asking;

  const stop = () => {
    clearTimeout(timer);
    asking?.abort();
    readings.clear();
  };
  const poll = async () => {
    const mine = (asking = new AbortController());
    try {
      const text = await getText("metrics", mine.signal);
      const recent = readings.add(read(text, performance.now()));
      if (recent) draw(recent);
      note.textContent = told;
    } catch (error) {
      if (mine.signal.aborted) return;
      readings.clear();
      note.textContent = error instanceof Refusal ? `No metrics: ${error.message}` : `${error}`;
    }
    timer = setTimeout(poll, EVERY_MS);
  };
  const resume = () => {
    stop();
    if (!paused && !document.hidden) void poll();
  };

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) note.textContent = "Paused.";
    resume();
  });
  document.addEventListener("visibilitychange", resume);
  resume();
}

/** @param {import("./readings.js").Recent} recent */
function draw(recent) {
  for (const [stage, now] of recent.stages) {
    gauge(stage).follow(quantiles(now), now?.p50, now?.p99);
  }
  drawBatches(recent.batch);
  const tokens = recent.queueTokens ? `, ${recent.queueTokens} tokens` : "";
  gauge("waiting").follow([`${recent.queueTexts} texts${tokens}`], recent.queueTexts);
  const refused = recent.refused ? `, ${recent.refused} refused` : "";
  gauge("requests").follow([`${recent.requestsPerS.toFixed(1)} per s${refused}`], recent.requestsPerS);
}

/**
 * The two numbers; which is which, the legend tells the eye and hidden words the ear.
 *
 * @param {{p50: number, p99: number} | undefined} now
 */
function quantiles(now) {
  if (!now) return ["nothing passed"];
  const unseen = (/** @type {string} */ words) => element("span", { class: "unseen" }, words);
  return [unseen("p50 "), ms(now.p50), unseen(", p99 "), element("span", { "aria-hidden": "true" }, " · "), `${ms(now.p99)} ms`];
}

/** @param {import("./prometheus.js").Histogram | undefined} batch */
function drawBatches(batch) {
  if (!batch) return;
  const sizes = batch.counts.map((count, index) => count - (batch.counts[index - 1] ?? 0));
  const largest = batch.bounds[sizes.findLastIndex((size) => size > 0)] ?? 0;
  const all = observations(batch);
  const most = Number.isFinite(largest) ? `at most ${largest}` : "more than measured";
  const words = all ? `mean ${(batch.sum / all).toFixed(1)}, ${most}` : "none ran";
  gauge("texts per batch").compare(words, sizes);
}

/** @param {number} value */
function ms(value) {
  return value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0);
}
