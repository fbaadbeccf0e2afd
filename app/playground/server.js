// Talking to the server this page came from. Addresses are relative, so a path prefix is kept.

import { currentKey } from "./key.js";

const PATIENCE_MS = 120_000; // the server has limits of its own; this is for a network that is silent

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
  const answer = await ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  return answer.json();
}

/** @param {string} path */
export async function getJson(path) {
  return (await ask(path, {})).json();
}

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 */
export async function getText(path, signal) {
  return (await ask(path, { signal })).text();
}

/**
 * @param {string} path
 * @param {RequestInit} request
 */
async function ask(path, request) {
  const key = currentKey();
  const headers = { ...request.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const silence = AbortSignal.timeout(PATIENCE_MS);
  const signal = request.signal ? AbortSignal.any([request.signal, silence]) : silence;
  let answer;
  try {
    answer = await fetch(path, { ...request, headers, signal, cache: "no-store" });
  } catch (error) {
    if (request.signal?.aborted) throw error;
    const message = silence.aborted
      ? `There was no answer within ${PATIENCE_MS / 1000} s.`
      : "There was no answer. The server may have stopped, or the network is gone.";
    throw new Refusal(0, { message });
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
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
