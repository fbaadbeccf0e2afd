// A JSON schema as a list of fields, for people.

import { counted, element, prose } from "./dom.js";

/** @typedef {Record<string, any>} Schema */

const DEEPEST = 5;
/** @type {Record<string, (bound: number) => string>} */
const FACTS = {
  minLength: (bound) => `at least ${counted(bound, "character")}`,
  maxLength: (bound) => `at most ${counted(bound, "character")}`,
  minItems: (bound) => `at least ${counted(bound, "item")}`,
  maxItems: (bound) => `at most ${counted(bound, "item")}`,
  minimum: (bound) => `at least ${bound}`,
  maximum: (bound) => `at most ${bound}`,
  exclusiveMinimum: (bound) => `above ${bound}`,
};

/**
 * @param {Schema} schema
 * @param {(schema: Schema) => Schema} resolve follows a reference
 * @returns {HTMLElement[]} what there is to say of it beyond its type: nothing for a plain value
 */
export function fields(schema, resolve, depth = 0) {
  const plain = resolve(schema);
  if (depth > DEEPEST) return [];
  const shapes = alternatives(plain).map(resolve);
  if (shapes.length) {
    const lists = shapes.flatMap((shape) => fields(shape, resolve, depth + 1).map((list) => ({ shape, list })));
    if (lists.length < 2) return lists.map(({ list }) => list);
    return lists.map(({ shape, list }) => {
      const name = element("span", { class: "type" }, `${shape.title ?? "or"}: `);
      return element("div", {}, name, list);
    });
  }
  if (plain.items) return fields(plain.items, resolve, depth);
  const properties = Object.entries(plain.properties ?? {});
  if (properties.length === 0) return [];
  const required = new Set(plain.required ?? []);
  const rows = properties.map(([name, of]) => field({ name, of, required: required.has(name) }, resolve, depth));
  return [element("ul", { class: "fields" }, ...rows)];
}

/**
 * @param {{name: string, of: Schema, required: boolean}} property
 * @param {(schema: Schema) => Schema} resolve
 * @param {number} depth
 */
function field({ name, of, required }, resolve, depth) {
  const plain = { ...resolve(of), ...of };
  const needed = required ? element("strong", {}, " required") : "";
  const row = element("li", {}, element("code", {}, name), " ");
  row.append(element("span", { class: "type" }, typeOf(of, resolve)), needed);
  if (plain.description) row.append(element("div", {}, ...prose(plain.description)));
  const facts = factsOf(plain);
  if (facts) row.append(element("div", { class: "facts-of" }, facts));
  row.append(...fields(of, resolve, depth + 1));
  return row;
}

/**
 * @param {Schema} schema
 * @param {(schema: Schema) => Schema} resolve
 * @returns {string} the type in words, such as `list of text, or none`
 */
export function typeOf(schema, resolve, depth = 0) {
  const plain = resolve(schema);
  if (depth > DEEPEST) return "…";
  const shapes = alternatives(plain);
  if (shapes.length) return [...new Set(shapes.map((shape) => typeOf(shape, resolve, depth + 1)))].join(", or ");
  if ("const" in plain) return JSON.stringify(plain.const);
  if (plain.enum) return plain.enum.map((/** @type {unknown} */ value) => JSON.stringify(value)).join(" | ");
  if (plain.type === "array") {
    return plain.items ? `list of ${typeOf(plain.items, resolve, depth + 1)}` : "list";
  }
  const words = { string: "text", integer: "whole number", boolean: "true or false", null: "null" };
  return words[/** @type {keyof typeof words} */ (plain.type)] ?? plain.type ?? plain.title ?? "anything";
}

/** @param {Schema} schema */
function alternatives(schema) {
  return /** @type {Schema[]} */ (schema.anyOf ?? schema.oneOf ?? schema.allOf ?? []);
}

/** @param {Schema} schema */
function factsOf(schema) {
  const facts = Object.entries(FACTS)
    .filter(([name]) => schema[name] !== undefined)
    .map(([name, inWords]) => inWords(schema[name]));
  if (schema.default !== undefined && schema.default !== null) {
    facts.unshift(`default ${JSON.stringify(schema.default)}`);
  }
  return facts.join("; ");
}
