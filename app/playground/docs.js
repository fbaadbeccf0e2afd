// The OpenAPI document as a page: what each operation takes and answers, with a call to copy.

import { element, find, prose } from "./dom.js";
import { fields, typeOf } from "./schema.js";
import { getJson } from "./server.js";

/** @typedef {Record<string, any>} Json */
/** @typedef {{method: string, path: string, of: Json, id: string}} Operation */

const METHODS = ["get", "put", "post", "delete", "patch"];

/** @type {Json} */
let schemas = {};

/**
 * @param {Json} schema
 * @returns {Json}
 */
function resolve(schema) {
  const name = schema.$ref?.split("/").at(-1);
  return name === undefined ? schema : schemas[name] ?? {};
}

async function main() {
  const facts = find("facts", HTMLElement);
  try {
    const document_ = await getJson("openapi.json");
    schemas = document_.components?.schemas ?? {};
    const operations = operationsIn(document_.paths);
    facts.textContent = `${document_.info.description ?? ""} Version ${document_.info.version}.`;
    find("operations", HTMLElement).append(...contents(operations));
    find("reference", HTMLElement).append(...operations.map(section));
    document.getElementById(location.hash.slice(1))?.scrollIntoView();
  } catch (error) {
    facts.textContent = `The document could not be read. ${error instanceof Error ? error.message : error}`;
  }
}

/**
 * @param {Json} paths
 * @returns {Operation[]}
 */
function operationsIn(paths) {
  return Object.entries(paths).flatMap(([path, methods]) =>
    METHODS.filter((method) => methods[method]).map((method) => ({
      method: method.toUpperCase(), path, of: methods[method], id: `${method}${path.replace(/\W+/g, "-")}`,
    })),
  );
}

/** @param {Operation[]} operations */
function contents(operations) {
  const tags = [...new Set(operations.map(({ of }) => of.tags?.[0] ?? "others"))];
  return tags.flatMap((tag) => {
    const links = operations.filter(({ of }) => (of.tags?.[0] ?? "others") === tag).map((operation) =>
      element("li", {}, element("a", { href: `#${operation.id}` }, ...name(operation))),
    );
    return [element("h2", {}, tag), element("ul", {}, ...links)];
  });
}

/** @param {Operation} operation */
function name({ method, path }) {
  return [element("span", { class: "method" }, method), " ", element("code", {}, path)];
}

/** @param {Operation} operation */
function section(operation) {
  const { of, id } = operation;
  const heading = element("h2", { id: `${id}-title` }, ...name(operation));
  return element(
    "section", { class: "operation", id, "aria-labelledby": `${id}-title` },
    heading,
    element("p", {}, ...prose(of.description ?? of.summary ?? "")),
    ...parameters(of.parameters ?? []),
    ...request(operation),
    ...responses(of.responses ?? {}),
  );
}

/** @param {Json[]} given */
function parameters(given) {
  if (given.length === 0) return [];
  const rows = given.map((parameter) => element(
    "li", {},
    element("code", {}, parameter.name), " ",
    element("span", { class: "type" }, `${parameter.in}, ${typeOf(parameter.schema ?? {}, resolve)}`),
    element("div", {}, ...prose(parameter.description ?? "")),
  ));
  return [element("h3", {}, "Parameters"), element("ul", { class: "fields" }, ...rows)];
}

/** @param {Operation} operation */
function request({ method, path, of }) {
  const body = of.requestBody?.content?.["application/json"];
  if (!body) return [];
  return [
    element("h3", {}, "Body"),
    ...fields(body.schema ?? {}, resolve),
    ...Object.entries(examplesIn(body)).flatMap(([title, example]) => [
      element("h3", {}, `Example: ${title}`),
      code(curl(method, path, example), `Example: ${title}`),
    ]),
  ];
}

/** @param {Json} given by status */
function responses(given) {
  const rows = Object.entries(given).map(([status, response]) => {
    const { description, content } = resolve(response);
    const body = content?.["application/json"] ?? {};
    const [example] = Object.values(examplesIn(body));
    const summary = element("summary", {}, element("strong", {}, status), " ", ...prose(description ?? ""));
    const shown = example === undefined ? [] : [code(JSON.stringify(example, null, 2), `Example of ${status}`)];
    const inside = [...fields(body.schema ?? {}, resolve), ...shown];
    return inside.length ? element("details", {}, summary, ...inside) : element("p", {}, ...summary.childNodes);
  });
  return [element("h3", {}, "Answers"), ...rows];
}

/**
 * @param {Json} content of one media type
 * @returns {Json} examples by name
 */
function examplesIn(content) {
  if (content.examples) {
    const named = Object.entries(content.examples).map(([name, { value }]) => [name, value]);
    return Object.fromEntries(named);
  }
  const example = content.example ?? resolve(content.schema ?? {}).example;
  return example === undefined ? {} : { "": example };
}

/**
 * @param {string} method
 * @param {string} path
 * @param {unknown} body
 */
function curl(method, path, body) {
  const address = new URL(path.replace(/^\//, ""), document.baseURI).href;
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const how = method === "POST" ? "" : ` -X ${method}`;
  return `curl -s${how} ${address} \\\n  -H 'content-type: application/json' \\\n  -d '${json}'`;
}

/**
 * @param {string} text
 * @param {string} label
 */
function code(text, label) {
  return element("pre", { tabindex: 0, role: "group", "aria-label": label }, element("code", {}, text));
}

void main();
