// The extension operations of a patch, from fold 2 on: inc, str_ins and str_del as json-joy has them, and push.
// Positions and lengths in a text are code points.

import { LIMITS, applyCompiled, applyPatch, compilePatch, find, sizeWithin } from "./change.mjs";
import { INTEGER_MAX, INTEGER_MIN, copy, refuse, size, write } from "./json.mjs";

const PUSH_ELEMENTS_MAX = 10_000n;

/** For `compilePatch`: how each is read and applied. */
export const EXTENSIONS = {
  inc: { read: readAmount, apply: inc },
  push: { read: readPush, apply: push },
  str_del: { read: readDeletion, apply: deleteText },
  str_ins: { read: readInsertion, apply: insertText },
};

/** Like `applyPatch`, for a patch as it was sent; with the effective patch in canonical text, where it is another. */
export function applyExtended(state, raw, bytes, rules = {}) {
  const operations = compilePatch(raw, EXTENSIONS, rules.limits);
  // Copied before the values become part of the state, where later operations change them.
  const unchanged = operations.some(isPush) ? copy(raw) : undefined;
  const { root, size: after } = applyPatch(state, operations, bytes, rules);
  return { root, size: after, effect: unchanged && effectOf(unchanged, operations, root, rules.limits) };
}

/** Apply one operation to an edit. */
export function applyOperation(edit, raw) {
  applyCompiled(edit, compilePatch([raw], EXTENSIONS)[0]);
}

const isPush = ({ apply }) => apply === push;

/** A push is kept as the plain operations that it was; too many or too long, all is one `replace` of the root. */
function effectOf(raw, operations, root, limits = LIMITS) {
  const kept = operations.map((operation, at) => (isPush(operation) ? pushed(raw[at], operation) : [raw[at]]));
  const paths = operations.flatMap((operation, at) =>
    isPush(operation) ? [[...raw[at].get("path")].length * (1 + operation.removed)] : [],
  );
  const length = raw.length + operations.reduce((sum, { removed = 0 }) => sum + removed, 0);
  const isShort = length <= limits.operations && paths.reduce((sum, chars) => sum + chars, 0) <= limits.event_bytes;
  return isShort ? write(kept.flatMap((each) => [...each])) : `[{"op":"replace","path":"","value":${write(root)}}]`;
}

function* pushed(item, { isCreation, removed }) {
  const [path, value] = [item.get("path"), item.get("value")];
  const add = isCreation ? [path, [value]] : [`${path}/-`, value];
  yield new Map([["op", "add"], ["path", add[0]], ["value", add[1]]]);
  for (let at = 0; at < removed; at += 1) yield new Map([["op", "remove"], ["path", `${path}/0`]]);
}

function inc(edit, { tokens, amount }) {
  const found = find(edit.root, tokens);
  if (found.value === undefined) refuse("target_missing");
  if (!isNumber(found.value)) refuse("not_a_number");
  set(edit, found, sum(found.value, amount));
}

/** Integers are added exactly, anything else as doubles. */
export function sum(old, amount) {
  if (typeof old === "bigint" && typeof amount === "bigint") {
    const total = old + amount;
    return INTEGER_MIN <= total && total <= INTEGER_MAX ? total : refuse("number_out_of_range");
  }
  const total = Number(old) + Number(amount);
  return Number.isFinite(total) ? total + 0 : refuse("number_out_of_range");
}

/** A position beyond the end is the end; at 0 an absent member is made. */
function insertText(edit, { tokens, position, text }) {
  const found = find(edit.root, tokens);
  if (found.value === undefined) {
    if (position > 0n) refuse("target_missing");
    return edit.setMember(found.parent, found.place, text, size(text));
  }
  const characters = charactersOf(edit, found.value);
  const at = clamped(position, characters);
  set(edit, found, characters.slice(0, at).join("") + text + characters.slice(at).join(""));
}

/** Deletes what there is of a range. */
function deleteText(edit, { tokens, position, length }) {
  const found = find(edit.root, tokens);
  if (found.value === undefined) refuse("target_missing");
  const characters = charactersOf(edit, found.value);
  characters.splice(clamped(position, characters), clamped(length, characters));
  set(edit, found, characters.join(""));
}

function charactersOf(edit, value) {
  const characters = typeof value === "string" ? [...value] : refuse("not_a_string");
  edit.shift(characters.length);
  return characters;
}

const clamped = (position, { length }) => (position < BigInt(length) ? Number(position) : length);

/** Appends, and removes from the front down to `most`; notes in the operation what it did. */
function push(edit, operation) {
  const { tokens, value, most } = operation;
  const { parent, place, value: array } = find(edit.root, tokens);
  operation.isCreation = array === undefined;
  operation.removed = 0;
  if (!operation.isCreation && !Array.isArray(array)) refuse("not_an_array");
  const bytes = sizeWithin(value, edit.limits.depth - tokens.length - 1);
  if (operation.isCreation) return edit.setMember(parent, place, [value], bytes + 2);
  edit.insertElement(array, array.length, value, bytes);
  operation.removed = Math.max(0, array.length - most);
  if (operation.removed) edit.removeFirst(array, operation.removed);
}

function set(edit, { parent, place }, value) {
  if (parent === undefined) edit.setRoot(value, size(value));
  else if (Array.isArray(parent)) edit.replaceElement(parent, place, value, size(value));
  else edit.setMember(parent, place, value, size(value));
}

function readAmount(item) {
  return isNumber(item.get("inc")) ? { amount: item.get("inc") } : refuse("bad_patch");
}

function readInsertion(item) {
  return { position: count(item, "pos"), text: text(item) };
}

function readPush(item) {
  const most = item.get("max");
  const isCount = typeof most === "bigint" && most >= 1n && most <= PUSH_ELEMENTS_MAX;
  return item.has("value") && isCount ? { value: item.get("value"), most: Number(most) } : refuse("bad_patch");
}

function readDeletion(item) {
  const length = item.has("str") ? BigInt([...text(item)].length) : count(item, "len");
  return { position: count(item, "pos"), length };
}

function text(item) {
  return typeof item.get("str") === "string" ? item.get("str") : refuse("bad_patch");
}

function count(item, field) {
  const found = item.get(field);
  return typeof found === "bigint" && found >= 0n ? found : refuse("bad_patch");
}

const isNumber = (value) => typeof value === "bigint" || typeof value === "number";
