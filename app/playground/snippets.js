// The call that was just made, to be made from elsewhere. A key is named, never shown.

import { button, find } from "./dom.js";
import { currentKey } from "./key.js";
import { model } from "./served.js";

/** @typedef {import("./outcome.js").Call} Call */

const KEY = "LIGHTMBERT_API_KEY";

/** @type {Record<string, (call: Call) => string>} */
const KINDS = { curl, Python: python };
/** @type {Record<string, (call: Call) => string>} */
const KINDS_OF_EMBED = { ...KINDS, "OpenAI client": openai };

let chosen = "curl";

/** @param {Call} call */
export function showSnippets(call) {
  // OpenAI's route refuses a text that is too long, and knows no word for cutting it.
  const kinds = call.path === "embed" && !call.body.truncate ? KINDS_OF_EMBED : KINDS;
  const choices = find("snippet-kinds", HTMLElement);
  const buttons = Object.keys(kinds).map((kind) => button(kind, () => choose(kind)));
  /** @param {string} kind */
  const choose = (kind) => {
    chosen = kind;
    for (const each of buttons) each.setAttribute("aria-pressed", String(each.textContent === kind));
    const code = find("snippet", HTMLPreElement).querySelector("code");
    if (code) code.textContent = kinds[kind]?.(call) ?? "";
    find("copied", HTMLElement).textContent = "";
  };
  choices.replaceChildren(...buttons);
  choices.hidden = false;
  find("copy", HTMLButtonElement).hidden = false;
  choose(chosen in kinds ? chosen : "curl");
}

export function setUpCopy() {
  const said = find("copied", HTMLElement);
  find("copy", HTMLButtonElement).addEventListener("click", async () => {
    said.textContent = "";
    const snippet = find("snippet", HTMLPreElement);
    try {
      await navigator.clipboard.writeText(snippet.textContent ?? "");
      said.textContent = "Copied.";
    } catch { // no clipboard without https, or it is not allowed
      getSelection()?.selectAllChildren(snippet);
      said.textContent = "Selected: copy it with Ctrl + C.";
    }
  });
}

/** @param {string} path */
function address(path) {
  return new URL(path, document.baseURI).href;
}

/** @param {Call} call */
function curl({ path, body }) {
  const key = currentKey() ? `  -H "authorization: Bearer $${KEY}" \\\n` : "";
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl -s ${address(path)} \\\n  -H 'content-type: application/json' \\\n${key}  -d '${json}'`;
}

/** @param {Call} call */
function python({ path, body }) {
  const key = currentKey();
  const headers = key ? `    headers={"authorization": f"Bearer {os.environ['${KEY}']}"},\n` : "";
  const imports = [
    ...(key ? ["import os", ""] : []),
    "import httpx",
    ...(path === "embed" ? ["import numpy as np"] : []),
  ];
  const use = path === "embed"
    ? 'vectors = np.array(answer.json()["embeddings"])\nprint((vectors @ vectors.T).round(2))'
    : 'for result in answer.json()["results"]:\n    print(result["label"], result["score"])';
  return `${imports.join("\n")}

answer = httpx.post(
    "${address(path)}",
${headers}    json=${literal(body, "    ")},
)
answer.raise_for_status()
${use}`;
}

/** @param {Call} call */
function openai({ body }) {
  const key = currentKey() ? `os.environ["${KEY}"]` : '"none"';
  return `${currentKey() ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${address("v1")}", api_key=${key})
answer = client.embeddings.create(
    model=${literal(body.model ?? model()?.name ?? "", "")},
    input=${literal(body.texts, "    ")},
)
vectors = [item.embedding for item in answer.data]
print(len(vectors), "vectors of", len(vectors[0]), "dimensions")`;
}

/**
 * A Python literal. JSON's strings and numbers are Python's too.
 *
 * @param {any} value
 * @param {string} indent
 * @returns {string}
 */
function literal(value, indent) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  const items = Array.isArray(value)
    ? value.map((item) => literal(item, deeper))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, deeper)}`);
  return `${open}\n${items.map((item) => `${deeper}${item},\n`).join("")}${indent}${close}`;
}
