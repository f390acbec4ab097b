// A subset of JSON Schema (2020-12) that a namespace may require of its documents' states.

import { parsePointer } from "./change.mjs";
import { Refused, byCodePoint, equal } from "./json.mjs";
import { regex } from "./regex.mjs";

const [SUBSCHEMAS_MAX, CHECKS_MAX] = [1_000, 20_000_000];

/** Compile a schema; a refusal has the pointer of what is not allowed. */
export function compileSchema(source) {
  const schemas = new Map();
  const root = subschema(source, [], schemas);
  for (const schema of schemas.values()) schema.applied = applied(schema, schemas);
  return root;
}

/** Return the first value that a schema does not allow, as `{pointer, keyword}`, or undefined. */
export function violation(schema, state) {
  const found = firstViolation(state, schema.applied, { checks: 0 });
  return found && { pointer: render(found.tokens.reverse()), keyword: found.keyword };
}

function firstViolation(value, schemas, work) {
  for (const { checks } of schemas) {
    for (const [keyword, isAllowed] of checks) if (!isAllowed(value)) return { keyword, tokens: [] };
  }
  if (value instanceof Map) {
    for (const key of [...value.keys()].sort(byCodePoint)) {
      const inner = together(schemas.map(({ properties, additional }) => properties.get(key) ?? additional));
      const found = inside(value.get(key), key, inner, work);
      if (found) return found;
    }
  } else if (Array.isArray(value)) {
    const inner = together(schemas.map(({ items }) => items));
    for (const [place, item] of inner.length ? value.entries() : []) {
      const found = inside(item, String(place), inner, work);
      if (found) return found;
    }
  }
  return undefined;
}

function inside(value, token, schemas, work) {
  if ((work.checks += schemas.length) > CHECKS_MAX) return { keyword: "the work to check it", tokens: [token] };
  const found = firstViolation(value, schemas, work);
  found?.tokens.push(token);
  return found;
}

/** All that is applied with some subschemas, each once. */
const together = (schemas) => [...new Set(schemas.flatMap((schema) => schema?.applied ?? []))];

function subschema(source, tokens, schemas) {
  const schema = { tokens, checks: [], properties: new Map() };
  schemas.set(JSON.stringify(tokens), schema);
  if (schemas.size > SUBSCHEMAS_MAX) bad(tokens);
  if (source === false) schema.checks.push([falseKeyword(tokens), () => false]);
  else if (source instanceof Map) {
    for (const keyword of [...source.keys()].sort(byCodePoint)) {
      addKeyword(schema, keyword, source.get(keyword), [...tokens, keyword], schemas);
    }
  } else if (source !== true) bad(tokens);
  return schema;
}

const falseKeyword = (tokens) => (tokens.at(-1) === "additionalProperties" ? "additionalProperties" : "false");

function addKeyword(schema, keyword, value, tokens, schemas) {
  if (keyword === "properties" || keyword === "$defs") {
    if (!(value instanceof Map)) bad(tokens);
    const names = [...value.keys()].sort(byCodePoint);
    const members = new Map(names.map((name) => [name, subschema(value.get(name), [...tokens, name], schemas)]));
    if (keyword === "properties") schema.properties = members;
  } else if (keyword === "additionalProperties") schema.additional = subschema(value, tokens, schemas);
  else if (keyword === "items") schema.items = subschema(value, tokens, schemas);
  else if (keyword === "$ref") schema.reference = reference(value, tokens);
  else if (Object.hasOwn(KEYWORDS, keyword)) schema.checks.push([keyword, KEYWORDS[keyword](value, tokens)]);
  else bad(tokens);
}

function reference(value, tokens) {
  if (typeof value !== "string" || value[0] !== "#") bad(tokens);
  try {
    return parsePointer(value.slice(1).replace(/(?:%[0-9A-Fa-f]{2})+/g, decodeURIComponent));
  } catch {
    return bad(tokens);
  }
}

/** Follow the reference of a subschema, and that of what it names. */
function applied(schema, schemas) {
  const found = [schema];
  for (let last = schema; last.reference; last = found.at(-1)) {
    const named = schemas.get(JSON.stringify(last.reference));
    if (!named || found.includes(named)) bad([...last.tokens, "$ref"]);
    found.push(named);
  }
  return found;
}

function bad(tokens) {
  throw Object.assign(new Refused("bad_schema"), { pointer: render(tokens) });
}

const render = (tokens) =>
  tokens.map((token) => `/${token.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");

const isInteger = (value) => typeof value === "bigint" || (typeof value === "number" && Number.isInteger(value));
const isNumber = (value) => typeof value === "bigint" || typeof value === "number";
const TYPES = {
  array: Array.isArray,
  boolean: (value) => typeof value === "boolean",
  integer: isInteger,
  null: (value) => value === null,
  number: isNumber,
  object: (value) => value instanceof Map,
  string: (value) => typeof value === "string",
};

const bound = (allows) => (value, tokens) => {
  if (!isNumber(value)) bad(tokens);
  return (found) => !isNumber(found) || allows(found, value);
};

const length = (isOfKind, count, allows) => (value, tokens) => {
  if (!isInteger(value) || value < 0) bad(tokens);
  return (found) => !isOfKind(found) || allows(count(found), Number(value));
};

const characters = (text) => [...text].length;
const elements = (array) => array.length;
const atLeast = (count, least) => count >= least;
const atMost = (count, most) => count <= most;

/** Keywords that check a value by itself. */
const KEYWORDS = {
  type(value, tokens) {
    const names = Array.isArray(value) ? value : [value];
    const isName = (name) => typeof name === "string" && Object.hasOwn(TYPES, name);
    if (!names.length || new Set(names).size < names.length || !names.every(isName)) bad(tokens);
    return (found) => names.some((name) => TYPES[name](found));
  },
  enum(value, tokens) {
    if (!Array.isArray(value)) bad(tokens);
    return (found) => value.some((each) => equal(each, found));
  },
  const: (value) => (found) => equal(value, found),
  required(value, tokens) {
    const isNames = Array.isArray(value) && value.every((name) => typeof name === "string");
    if (!isNames || new Set(value).size < value.length) bad(tokens);
    return (found) => !(found instanceof Map) || value.every((name) => found.has(name));
  },
  minimum: bound((found, least) => found >= least),
  maximum: bound((found, most) => found <= most),
  minLength: length(TYPES.string, characters, atLeast),
  maxLength: length(TYPES.string, characters, atMost),
  minItems: length(TYPES.array, elements, atLeast),
  maxItems: length(TYPES.array, elements, atMost),
  pattern(value, tokens) {
    if (typeof value !== "string") bad(tokens);
    let compiled;
    try {
      compiled = regex(value);
    } catch {
      bad(tokens);
    }
    return (found) => typeof found !== "string" || compiled.test(found);
  },
};
