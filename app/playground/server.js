// Talking to the server this page came from. Addresses are relative, so a path prefix is kept.

import { currentKey } from "./key.js";

const PATIENCE_MS = 120_000; // the server has limits of its own; this is for a network that is silent
const SILENCE = `There was no answer within ${PATIENCE_MS / 1000} s.`;

/** What went wrong, as far as the server or the network said. */
export class Refusal extends Error {
  /**
   * @param {number} status 0 where there was no answer
   * @param {{code?: string, message: string, param?: string, retryAfterMs?: number}} told
   */
  constructor(status, told) {
    super(told.message);
    this.status = status;
    this.code = told.code ?? "";
    this.param = told.param ?? "";
    this.retryAfterMs = told.retryAfterMs;
  }
}

/**
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {Promise<any>} the answer's JSON
 * @throws {Refusal}
 */
export async function post(path, body, signal) {
  const headers = { "content-type": "application/json" };
  const request = { method: "POST", headers, body: JSON.stringify(body), signal };
  return ask(path, request, (answer) => answer.json());
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 * @throws {Refusal}
 */
export async function getJson(path) {
  return ask(path, {}, (answer) => answer.json());
}

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 */
export async function getText(path, signal) {
  return ask(path, { signal }, (answer) => answer.text());
}

/**
 * @template Content
 * @param {string} path
 * @param {RequestInit} request
 * @param {(answer: Response) => Promise<Content>} read may fail as asking may: the body comes later
 * @returns {Promise<Content>}
 */
async function ask(path, request, read) {
  const key = currentKey();
  const headers = { ...request.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const silence = AbortSignal.timeout(PATIENCE_MS);
  const signal = request.signal ? AbortSignal.any([request.signal, silence]) : silence;
  try {
    const answer = await fetch(path, { ...request, headers, signal, cache: "no-store" });
    if (!answer.ok) throw await refusal(answer);
    return await read(answer);
  } catch (error) {
    if (error instanceof Refusal || request.signal?.aborted) throw error;
    throw new Refusal(0, { message: silence.aborted ? SILENCE : unusable(error) });
  }
}

/** @param {unknown} error of asking or of reading */
function unusable(error) {
  if (error instanceof SyntaxError) return "The answer is no JSON.";
  return "There was no answer. The server may have stopped, or the network is gone.";
}

/** @param {Response} answer */
async function refusal(answer) {
  const retryAfterMs = wait(answer.headers);
  const body = await answer.json().catch(() => null); // a proxy may answer in words of its own
  const { code, message, param } = body?.error ?? {};
  if (typeof message === "string") {
    return new Refusal(answer.status, { code, message, param, retryAfterMs });
  }
  const unexplained = `The answer was status ${answer.status}, without an explanation.`;
  return new Refusal(answer.status, { message: unexplained, retryAfterMs });
}

/** @param {Headers} headers */
function wait(headers) {
  const ms = Number(headers.get("retry-after-ms") ?? NaN);
  const s = Number(headers.get("retry-after") ?? NaN);
  if (Number.isFinite(ms)) return ms;
  return Number.isFinite(s) ? s * 1000 : undefined;
}
