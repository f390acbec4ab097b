// JSON Pointer, JSON Patch and JSON Merge Patch (RFC 6901, 6902, 7396): in place, atomically.

import { byCodePoint, copy, depth, equal, identical, isContainer, refuse, size, write } from "./json.mjs";

/** Bounds of one change by their names in a genesis. A namespace may have lower ones. */
export const LIMITS = {
  depth: 128,
  operations: 10_000,
  state_bytes: 8 * 1024 * 1024,
  copy_bytes: 16 * 1024 * 1024,
  shifts: 256 * 1024 * 1024,
  event_bytes: 1024 * 1024,
};

export function parsePointer(pointer) {
  if (pointer === "") return [];
  if (pointer[0] !== "/" || /~(?![01])/.test(pointer)) refuse("bad_pointer");
  return pointer.slice(1).split("/").map((token) => token.replaceAll("~1", "/").replaceAll("~0", "~"));
}

export const renderPointer = (tokens) =>
  tokens.map((token) => `/${token.replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");

export function resolve(root, tokens) {
  return tokens.reduce((node, token) => {
    if (Array.isArray(node)) return node[index(token, node.length)];
    return node instanceof Map && node.has(token) ? node.get(token) : refuse("target_missing");
  }, root);
}

/** Check a whole patch's shape before the first operation is applied. `others`: operations that RFC 6902 lacks. */
export function compilePatch(raw, others = {}, limits = LIMITS) {
  if (!Array.isArray(raw)) refuse("bad_patch");
  if (raw.length > limits.operations) refuse("too_many_operations");
  return raw.map((item) => compileOperation(item, others));
}

/**
 * Return the new root and its canonical size. If it throws, the state is unchanged. `rules` have the limits, and
 * `check`, which may refuse the new root.
 */
export function applyPatch(state, operations, bytes, rules = {}) {
  return applied(new Edit(state, bytes, rules.limits), rules.check, (edit) => {
    for (const operation of operations) applyCompiled(edit, operation);
  });
}

/** Apply one operation of a compiled patch. */
export function applyCompiled(edit, operation) {
  (operation.apply ?? APPLY[operation.kind])(edit, operation);
  edit.checkSize();
}

/** The same for a merge, with its effect: a JSON Patch that makes the same change to the same state. */
export function applyMerge(state, merge, bytes, rules = {}) {
  const effect = new Effect(rules.limits);
  const { root, size: after } = applied(new Edit(state, bytes, rules.limits), rules.check, (edit) => {
    if (merge instanceof Map && edit.root instanceof Map) mergeMembers(edit, effect, edit.root, merge, []);
    else setMerged(edit, effect, withoutNulls(merge));
  });
  return { root, size: after, effect: effect.over(root) };
}

/** Return a value's canonical size, or throw if it nests too deep. */
export function sizeWithin(value, levels) {
  return depth(value) > levels ? refuse("too_deep") : size(value);
}

function applied(edit, check, change) {
  try {
    change(edit);
    check?.(edit.root);
  } catch (refused) {
    edit.undo();
    throw refused;
  }
  return edit;
}

/** An undo log: changes to one state, and its size. */
export class Edit {
  constructor(root, bytes, limits = LIMITS) {
    Object.assign(this, { root, size: bytes, limits, undoing: [], carried: 0, shifts: 0 });
  }

  undo() {
    for (const undo of this.undoing.reverse()) undo();
  }

  setRoot(value, bytes) {
    Object.assign(this, { root: value, size: bytes });
  }

  setMember(parent, key, value, bytes) {
    if (parent.has(key)) this.removeMember(parent, key);
    this.size += bytes + size(key) + (parent.size ? 2 : 1);
    this.undoing.push(() => parent.delete(key));
    parent.set(key, value);
  }

  removeMember(parent, key) {
    const old = parent.has(key) ? parent.get(key) : refuse("target_missing");
    parent.delete(key);
    this.size -= size(old) + size(key) + (parent.size ? 2 : 1);
    this.undoing.push(() => parent.set(key, old));
  }

  replaceElement(parent, place, value, bytes) {
    const old = parent[place];
    this.size += bytes - size(old);
    this.undoing.push(() => (parent[place] = old));
    parent[place] = value;
  }

  insertElement(parent, place, value, bytes) {
    this.shift(parent.length - place);
    this.size += bytes + (parent.length ? 1 : 0);
    this.undoing.push(() => parent.splice(place, 1));
    parent.splice(place, 0, value);
  }

  removeElement(parent, place) {
    this.shift(parent.length - place);
    const [old] = parent.splice(place, 1);
    this.size -= size(old) + (parent.length ? 1 : 0);
    this.undoing.push(() => parent.splice(place, 0, old));
  }

  removeFirst(parent, count) {
    this.shift(parent.length - count);
    const old = parent.splice(0, count);
    this.size -= size(old) - 1;
    this.undoing.push(() => parent.unshift(...old));
  }

  carry(bytes) {
    if ((this.carried += bytes) > this.limits.copy_bytes) refuse("copy_too_large");
  }

  checkSize() {
    if (this.size > this.limits.state_bytes) refuse("state_too_large");
  }

  shift(elements) {
    if ((this.shifts += elements) > this.limits.shifts) refuse("too_many_shifts");
  }
}

const APPLY = {
  add: (edit, { tokens, value }) => put(edit, tokens, value),
  replace(edit, { tokens, value }) {
    if (!tokens.length) return edit.setRoot(value, sizeWithin(value, edit.limits.depth));
    const [parent, key] = parentAndKey(edit.root, tokens);
    const place = Array.isArray(parent) ? index(key, parent.length) : parent.has(key) || refuse("target_missing");
    const bytes = sizeWithin(value, edit.limits.depth - tokens.length);
    if (Array.isArray(parent)) edit.replaceElement(parent, place, value, bytes);
    else edit.setMember(parent, key, value, bytes);
  },
  remove: (edit, { tokens }) => take(edit, tokens),
  move(edit, { tokens, source }) {
    const value = resolve(edit.root, source);
    if (tokens.length === source.length && startsWith(tokens, source)) return;
    take(edit, source);
    edit.carry(size(value));
    put(edit, tokens, value);
  },
  copy(edit, { tokens, source }) {
    const value = copy(resolve(edit.root, source));
    edit.carry(size(value));
    put(edit, tokens, value);
  },
  test: (edit, { tokens, value }) => equal(resolve(edit.root, tokens), value) || refuse("test_failed"),
};
const LATER = ["inc", "str_ins", "str_del"];

function compileOperation(item, others) {
  const kind = item instanceof Map ? item.get("op") : refuse("bad_patch");
  if (typeof kind === "string" && Object.hasOwn(others, kind)) {
    return { tokens: pointerIn(item, "path"), ...others[kind].read(item), apply: others[kind].apply };
  }
  if (LATER.includes(kind)) refuse("not_in_this_fold");
  if (typeof kind !== "string" || !Object.hasOwn(APPLY, kind)) refuse("bad_patch");
  const tokens = pointerIn(item, "path");
  if (["add", "replace", "test"].includes(kind)) {
    return item.has("value") ? { kind, tokens, value: item.get("value") } : refuse("bad_patch");
  }
  if (kind === "remove") return tokens.length ? { kind, tokens } : refuse("remove_root");
  const source = pointerIn(item, "from");
  if (kind === "move" && source.length < tokens.length && startsWith(tokens, source)) refuse("bad_patch");
  return { kind, tokens, source };
}

function pointerIn(item, field) {
  const pointer = item.get(field);
  return typeof pointer === "string" ? parsePointer(pointer) : refuse("bad_patch");
}

export const startsWith = (tokens, source) => source.every((token, at) => token === tokens[at]);

function put(edit, tokens, value) {
  if (!tokens.length) return edit.setRoot(value, sizeWithin(value, edit.limits.depth));
  const [parent, key] = parentAndKey(edit.root, tokens);
  const isArray = Array.isArray(parent);
  const place = isArray && key !== "-" ? index(key, parent.length + 1) : parent.length;
  const bytes = sizeWithin(value, edit.limits.depth - tokens.length);
  if (isArray) edit.insertElement(parent, place, value, bytes);
  else edit.setMember(parent, key, value, bytes);
}

function take(edit, tokens) {
  const [parent, key] = parentAndKey(edit.root, tokens);
  if (Array.isArray(parent)) edit.removeElement(parent, index(key, parent.length));
  else edit.removeMember(parent, key);
}

function parentAndKey(root, tokens) {
  const parent = resolve(root, tokens.slice(0, -1));
  return isContainer(parent) ? [parent, tokens.at(-1)] : refuse("target_missing");
}

/** Find a value with its container and its place there; an object may lack the member. */
export function find(root, tokens) {
  if (!tokens.length) return { value: root };
  const [parent, key] = parentAndKey(root, tokens);
  if (parent instanceof Map) return { parent, place: key, value: parent.get(key) };
  const place = index(key, parent.length);
  return { parent, place, value: parent[place] };
}

export function index(token, count) {
  const place = /^(0|[1-9][0-9]{0,14})$/.test(token) ? Number(token) : refuse("target_missing");
  return place < count ? place : refuse("target_missing");
}

function mergeMembers(edit, effect, target, changes, tokens) {
  for (const key of [...changes.keys()].sort(byCodePoint)) {
    const [change, inner] = [changes.get(key), [...tokens, key]];
    if (change === null) {
      if (!target.has(key)) continue;
      edit.removeMember(target, key);
      effect.add(edit, "remove", inner);
    } else if (change instanceof Map && target.get(key) instanceof Map) {
      mergeMembers(edit, effect, target.get(key), change, inner);
    } else setMember(edit, effect, target, inner, withoutNulls(change));
  }
}

function setMember(edit, effect, target, tokens, value) {
  const key = tokens.at(-1);
  const kind = target.has(key) ? "replace" : "add";
  if (kind === "replace" && identical(target.get(key), value)) return;
  edit.setMember(target, key, value, sizeWithin(value, edit.limits.depth - tokens.length));
  effect.add(edit, kind, tokens, value);
}

function setMerged(edit, effect, value) {
  if (identical(edit.root, value)) return;
  edit.setRoot(value, sizeWithin(value, edit.limits.depth));
  effect.add(edit, "replace", [], value);
}

export function withoutNulls(value) {
  if (!(value instanceof Map)) return value;
  const kept = [...value].filter(([, item]) => item !== null);
  return new Map(kept.map(([key, item]) => [key, withoutNulls(item)]));
}

/** A merge's operations in canonical text, or one `replace` of the root if they are too many or too long. */
class Effect {
  operations = [];
  pathChars = 0;

  constructor(limits = LIMITS) {
    this.limits = limits;
  }

  add(edit, kind, tokens, value) {
    edit.checkSize();
    if (!this.#isShort()) return;
    const path = renderPointer(tokens);
    for (const _ of path) this.pathChars += 1;
    const operation = new Map([["op", kind], ["path", path]]);
    if (kind !== "remove") operation.set("value", value);
    this.operations.push(write(operation));
  }

  over(root) {
    if (this.#isShort()) return `[${this.operations.join(",")}]`;
    return `[{"op":"replace","path":"","value":${write(root)}}]`;
  }

  #isShort() {
    return this.operations.length <= this.limits.operations && this.pathChars <= this.limits.event_bytes;
  }
}
