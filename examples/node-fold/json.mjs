// JSON as fold 1 reads and writes it: strict parsing, and canonical bytes for each value. No dependency.
//
// A value is null, a boolean, a BigInt (integer), a Number (float, for 1 is not 1.0), a string, an Array or a Map
// (an object gives `__proto__` another meaning and puts the key "1" first).

export const TEXT_DEPTH_MAX = 160;
export const INTEGER_MIN = -(2n ** 63n);
export const INTEGER_MAX = 2n ** 64n - 1n;

export class Refused extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

export function refuse(reason) {
  throw new Refused(reason);
}

export function parse(bytes) {
  const text = decoded(bytes, "bad_json");
  if (textDepth(text) > TEXT_DEPTH_MAX) refuse("too_deep");
  return new Parser(text).whole();
}

export function decoded(bytes, reason) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return refuse(reason);
  }
}

/** Return the canonical text; its UTF-8 is the canonical bytes. */
export function write(value) {
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value === "number") return writeFloat(value);
  if (Array.isArray(value)) return `[${value.map(write).join(",")}]`;
  if (!(value instanceof Map)) return String(value);
  const keys = [...value.keys()].sort(byCodePoint);
  return `{${keys.map((key) => `${JSON.stringify(key)}:${write(value.get(key))}`).join(",")}}`;
}

export const size = (value) => Buffer.byteLength(write(value));

export const identical = (a, b) => write(a) === write(b);

/** Compare as JSON does: 1 equals 1.0, true never equals 1. */
export function equal(a, b) {
  if (isNumber(a) && isNumber(b)) return a == b; // Exact between a BigInt and a Number.
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((it, at) => equal(it, b[at]));
  if (!(a instanceof Map && b instanceof Map)) return a === b;
  return a.size === b.size && [...a].every(([key, it]) => b.has(key) && equal(it, b.get(key)));
}

/** Levels of nesting: a scalar is 0, `[]` is 1. */
export function depth(value) {
  if (!isContainer(value)) return 0;
  let deepest = 0;
  for (const item of value.values()) deepest = Math.max(deepest, depth(item));
  return deepest + 1;
}

export function copy(value) {
  if (Array.isArray(value)) return value.map(copy);
  return value instanceof Map ? new Map([...value].map(([key, item]) => [key, copy(item)])) : value;
}

export const isContainer = (value) => Array.isArray(value) || value instanceof Map;

/** UTF-16 units sort like code points, except surrogates, which encode code points after U+FFFF. */
export function byCodePoint(a, b) {
  let at = 0;
  while (at < a.length && at < b.length && a[at] === b[at]) at += 1;
  return rank(a.charCodeAt(at)) - rank(b.charCodeAt(at));
}

const rank = (unit) => (Number.isNaN(unit) ? -1 : (unit & 0xf800) === 0xd800 ? unit + 0x10000 : unit);

const isNumber = (value) => typeof value === "bigint" || typeof value === "number";

/** JavaScript's digits are the shortest that round-trip, and -0 is "0"; only its thresholds differ. */
function writeFloat(value) {
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-5 || magnitude >= 1e16)) return value.toExponential();
  return Number.isInteger(value) ? `${value}.0` : String(value);
}

/** Count bracket levels outside of strings, also of a text that is not JSON: depth is checked first. */
function textDepth(text) {
  let [level, deepest, inString] = [0, 0, false];
  for (let at = 0; at < text.length; at += 1) {
    const sign = text[at];
    if (sign === '"') inString = !inString;
    else if (inString) at += sign === "\\" ? 1 : 0;
    else if (sign === "[" || sign === "{") deepest = Math.max(deepest, (level += 1));
    else if (sign === "]" || sign === "}") level -= 1;
  }
  return deepest;
}

const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
const SPACE = /[ \t\r\n]*/y;
const WORDS = [["null", null], ["true", true], ["false", false]];

/** A JSON text with a value out of bounds is parsed to its end, because the order of errors is fixed. */
class Parser {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.faults = new Set();
  }

  whole() {
    const value = this.value();
    this.#pass(SPACE);
    if (this.at < this.text.length) refuse("bad_json");
    for (const reason of ["number_out_of_range", "duplicate_key", "lone_surrogate"]) {
      if (this.faults.has(reason)) refuse(reason);
    }
    return value;
  }

  value() {
    this.#pass(SPACE);
    const sign = this.text[this.at];
    if (sign === "{") return this.#object();
    if (sign === "[") return this.#array();
    if (sign === '"') return this.#string();
    for (const [word, value] of WORDS) if (this.#takes(word)) return value;
    return this.#number();
  }

  #object() {
    const members = new Map();
    this.#list("{", "}", () => {
      this.#pass(SPACE);
      const key = this.text[this.at] === '"' ? this.#string() : refuse("bad_json");
      this.#pass(SPACE);
      if (!this.#takes(":")) refuse("bad_json");
      if (members.has(key)) this.faults.add("duplicate_key");
      members.set(key, this.value());
    });
    return members;
  }

  #array() {
    const items = [];
    this.#list("[", "]", () => items.push(this.value()));
    return items;
  }

  #list(open, close, item) {
    this.#takes(open);
    this.#pass(SPACE);
    if (this.#takes(close)) return;
    do {
      item();
      this.#pass(SPACE);
    } while (this.#takes(","));
    if (!this.#takes(close)) refuse("bad_json");
  }

  #string() {
    const start = this.at;
    for (this.at += 1; this.text[this.at] !== '"'; this.at += this.text[this.at] === "\\" ? 2 : 1) {
      if (this.at >= this.text.length) refuse("bad_json");
    }
    this.at += 1;
    let value;
    try {
      value = JSON.parse(this.text.slice(start, this.at));
    } catch {
      refuse("bad_json");
    }
    if (!value.isWellFormed()) this.faults.add("lone_surrogate");
    return value;
  }

  #number() {
    const [token, fraction, exponent] = this.#pass(NUMBER) ?? refuse("bad_json");
    const isFloat = fraction !== undefined || exponent !== undefined;
    // An integer in range has at most 20 characters.
    const value = isFloat ? Number(token) : token.length > 20 ? INTEGER_MAX + 1n : BigInt(token);
    const isInRange = isFloat ? Number.isFinite(value) : INTEGER_MIN <= value && value <= INTEGER_MAX;
    if (!isInRange) this.faults.add("number_out_of_range");
    return value;
  }

  #pass(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found) this.at = pattern.lastIndex;
    return found;
  }

  #takes(word) {
    const isThere = this.text.startsWith(word, this.at);
    if (isThere) this.at += word.length;
    return isThere;
  }
}
