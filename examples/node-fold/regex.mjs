// Regular expressions of a namespace's schema: the part of ECMA-262 that every language matches alike in bounded time.
// What is accepted means here what it means there, so only the syntax is checked. RegExp itself may backtrack.

import { refuse } from "./json.mjs";

const [CHARACTERS_MAX, PLACES_MAX, GROUPS_MAX] = [1_000, 500, 50];
const SYNTAX = "^$\\.*+?()[]{}|";
const QUANTIFIER = /^([*+?]|\{(\d{1,4})(?:(,)(\d{1,4})?)?\})\??/;
const BOUNDS = { "*": [0, Infinity], "+": [1, Infinity], "?": [0, 1] };
const CODE_POINT = /^(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\})/;

export function regex(pattern) {
  const reader = new Reader([...pattern]);
  const places = reader.characters.length > CHARACTERS_MAX ? Infinity : reader.alternation(0);
  return places <= PLACES_MAX && reader.next === undefined ? new RegExp(pattern, "u") : refuse("bad_regex");
}

/** Reads a pattern and counts its places, those of a repetition as often as it is made. */
class Reader {
  constructor(characters) {
    Object.assign(this, { characters, at: 0 });
  }

  get next() {
    return this.characters[this.at];
  }

  alternation(depth) {
    if (depth > GROUPS_MAX) refuse("bad_regex");
    const parts = [this.#sequence(depth)];
    while (this.#takes("|")) parts.push(this.#sequence(depth));
    return total(parts) + (parts.length > 1 ? 1 : 0);
  }

  #sequence(depth) {
    const parts = [];
    while (![undefined, "|", ")"].includes(this.next)) parts.push(this.#repeated(depth));
    return Math.max(1, total(parts));
  }

  #repeated(depth) {
    const isAssertion = "^$".includes(this.next);
    const places = this.#atom(depth);
    const found = QUANTIFIER.exec(this.#rest());
    if (!found) return places;
    const [whole, kind, least, comma, most] = found;
    const written = [Number(least), comma ? Number(most ?? Infinity) : Number(least)];
    const [from, to] = BOUNDS[kind] ?? written;
    if (isAssertion || to < from) refuse("bad_regex");
    this.at += whole.length;
    return (1 + places) * Math.max(1, to === Infinity ? from + 1 : to);
  }

  #atom(depth) {
    const character = this.#take();
    if (character === "(") return this.#group(depth);
    if (character === "[") this.#class();
    else if (character === "\\") this.#escape(`${SYNTAX}/`);
    else if (!"^$.".includes(character) && SYNTAX.includes(character)) refuse("bad_regex");
    return 1;
  }

  #group(depth) {
    if (this.#takes("?") && !this.#takes(":")) refuse("bad_regex");
    const places = this.alternation(depth + 1);
    return this.#takes(")") ? places : refuse("bad_regex");
  }

  #class() {
    this.#takes("^");
    while (!this.#takes("]")) {
      const first = this.#classAtom();
      if (this.next !== "-" || this.characters[this.at + 1] === "]") continue;
      this.at += 1;
      const last = this.#classAtom();
      if (first === undefined || last === undefined || last < first) refuse("bad_regex");
    }
  }

  #classAtom() {
    const character = this.#take();
    return character === "\\" ? this.#escape(`${SYNTAX}/-`) : character.codePointAt(0);
  }

  /** Return the code point that an escape stands for; undefined for a class. */
  #escape(escaped) {
    if (this.next !== undefined && "dDwWsS".includes(this.next)) return void this.#take();
    const controls = "tnvfr".indexOf(this.next ?? " ");
    if (controls >= 0) return this.#take() && 0x09 + controls;
    if (this.next !== undefined && escaped.includes(this.next)) return this.#take().codePointAt(0);
    const found = CODE_POINT.exec(this.#rest()) ?? refuse("bad_regex");
    const code = parseInt(found[1] ?? found[2] ?? found[3], 16);
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) refuse("bad_regex");
    this.at += found[0].length;
    return code;
  }

  #rest() {
    return this.characters.slice(this.at, this.at + 14).join("");
  }

  #take() {
    const character = this.next ?? refuse("bad_regex");
    this.at += 1;
    return character;
  }

  #takes(character) {
    const isThere = this.next === character;
    if (isThere) this.at += 1;
    return isThere;
  }
}

const total = (parts) => parts.reduce((sum, part) => sum + part, 0);
