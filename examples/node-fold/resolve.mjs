// The operations of a stale event: each does at the head what its author meant. schemas/conflicts.md has the rules.

import { parsePointer, resolve } from "./change.mjs";
import { isLive } from "./identity.mjs";
import { copy, equal, refuse, size } from "./json.mjs";
import { charactersOf } from "./model.mjs";
import { attempt, checkKnown, elements } from "./resolution.mjs";
import { Gone, TARGET_GONE } from "./view.mjs";

/** Apply all operations; `isWhole` where none may be dropped. Throws `Refused`, with all to be undone. */
export function applyStale(resolution, operations, isWhole) {
  for (const [number, item] of operations.entries()) {
    try {
      APPLY[item.get("op")](resolution, item, parsePointer(item.get("path")));
    } catch (gone) {
      if (!(gone instanceof Gone)) throw gone;
      if (gone.by && resolution.isFirst) refuse("conflict");
      if (isWhole) refuse(gone.reason);
      resolution.dropped.push(new Map([["operation", BigInt(number)], ["reason", gone.reason]]));
      resolution.optimistic.follow(item);
    }
  }
}

const APPLY = {
  add(resolution, item, tokens, op = "add", value = item.get("value")) {
    const { model, view } = resolution;
    if (!tokens.length) return resolution.writeNode(model.root, undefined, op, value);
    const [parent, key] = [view.find(tokens.slice(0, -1)), tokens.at(-1)];
    const content = view.opened(parent);
    if (!content || (content.members && !content.members.has(key))) {
      return resolution.emit(op, [...parent.path(), key], { value });
    }
    if (content.members) return resolution.writeMember(content, key, op, value, tokens);
    const [path, after] = resolution.gap(content, key);
    return resolution.emit("add", path, { value }, { after });
  },

  replace(resolution, item, tokens) {
    const { model, view } = resolution;
    const value = item.get("value");
    if (!tokens.length) return resolution.writeNode(model.root, undefined, "replace", value);
    const [content, key] = [view.opened(view.find(tokens.slice(0, -1))), tokens.at(-1)];
    if (content?.members?.has(key)) return resolution.writeMember(content, key, "replace", value, tokens);
    const found = view.find(tokens);
    if (found.isBelow) return resolution.emit("replace", found.path(), { value });
    checkKnown(found.node);
    if (found.node.isAlive()) return resolution.writeNode(found.node, found.place, "replace", value);
    return resolution.revive(found.place, value);
  },

  /** Remove a value where it is; nothing where it is gone. */
  remove(resolution, item, tokens) {
    const { view, optimistic } = resolution;
    let found;
    try {
      found = view.find(tokens);
      checkKnown(found.node);
    } catch (gone) {
      if (!(gone instanceof Gone) || gone.reason !== TARGET_GONE || (gone.by && resolution.isFirst)) throw gone;
      return optimistic.follow(item);
    }
    const { node, place } = found;
    if (found.isBelow || !place) return resolution.emit("remove", found.path());
    if (!node.isAlive()) {
      if (resolution.isFirst) throw new Gone(TARGET_GONE, node.head.goneBy());
      return optimistic.hide(place);
    }
    resolution.overwrite(node.written(resolution.author, place));
    const was = node.place;
    resolution.emit("remove", node.path());
    return place === was ? undefined : optimistic.hide(place);
  },

  /** Move a value from where it is now. */
  move(resolution, item, tokens) {
    const { view, author, model, edit, optimistic, optimisticStamp } = resolution;
    const source = parsePointer(item.get("from"));
    if (!source.length) return;
    checkKnown(view.find(source).node);
    const place = view.place(source);
    if (item.get("from") === item.get("path")) return;
    const node = place.ensureNode();
    if (!node.isAlive()) throw new Gone(TARGET_GONE, node.head.goneBy());
    resolution.overwrite(author.others(node.moves));
    if (!tokens.length) {
      resolution.writeNode(model.root, undefined, "add", copy(resolve(edit.root, node.path())));
      return;
    }
    // The target is what the path means when the value has left its place.
    place.removed.push(optimisticStamp);
    const was = node.place;
    let target;
    try {
      target = resolution.target(tokens, node);
    } finally {
      if (!target || place !== was) place.removed.pop();
    }
    if (place !== was) optimistic.hide(place);
    resolution.carry(node, target, tokens.at(-1));
  },

  /** Add the value that the author sees. */
  copy(resolution, item, tokens) {
    const found = resolution.view.find(parsePointer(item.get("from")));
    const { root } = resolution.edit;
    const value = copy(found.isBelow ? resolve(root, found.path()) : resolution.view.value(found.node));
    resolution.edit.carry(size(value));
    APPLY.add(resolution, item, tokens, "add", value);
  },

  /** Compare the value at the head. */
  test(resolution, item, tokens) {
    const found = attempt(() => resolution.view.find(tokens)) ?? refuse("test_failed");
    const isThere = found.isBelow || found.node.isAlive();
    if (!isThere || !equal(resolve(resolution.edit.root, found.path()), item.get("value"))) refuse("test_failed");
  },

  /** Add to the number at the head. */
  inc(resolution, item, tokens) {
    resolution.emit("inc", resolution.alive(tokens).path(), { inc: item.get("inc") });
  },

  /** Insert after the character that the author means; a text may begin with its first ones. */
  str_ins(resolution, item, tokens) {
    const str = item.get("str");
    const meant = Number(item.get("pos"));
    if (meant === 0 && resolution.isAbsent(tokens)) return resolution.create(tokens, str);
    const [sequence, path] = resolution.text(tokens);
    const { sees } = resolution.author;
    const after = sequence?.left(Math.min(meant, sequence.count(sees)), sees);
    const position = sequence ? sequence.after(after) : Math.min(meant, lengthAt(resolution, path));
    return resolution.emit("str_ins", path, { pos: BigInt(position), str }, { after });
  },

  /** Delete what is left of the characters that the author means. */
  str_del(resolution, item, tokens) {
    const [sequence, path] = resolution.text(tokens);
    const [meant, count] = [Number(item.get("pos")), charactersOf(item)];
    const remove = (pos, len) => resolution.emit("str_del", path, { pos: BigInt(pos), len: BigInt(len) });
    if (!sequence) {
      const left = Math.min(count, lengthAt(resolution, path) - meant);
      if (left > 0) remove(meant, left);
      return;
    }
    const pieces = sequence.range(meant, count, resolution.author.sees);
    const gone = pieces.filter((piece) => !piece.isLive);
    const isRemoved = gone.some(({ removed }) => removed.some((stamp) => !stamp.isOptimistic));
    if (isRemoved && resolution.isFirst) refuse("conflict");
    for (const piece of gone) resolution.optimistic.hide(piece);
    for (const run of liveRuns(sequence, pieces.filter(isLive))) remove(run.begin, run.count);
  },

  /** Add at the end of the head, and remove from its front; to an array that others made, where that is so. */
  push(resolution, item, tokens) {
    const [value, most] = [item.get("value"), Number(item.get("max"))];
    if (resolution.isAbsent(tokens)) return resolution.create(tokens, [value]);
    const [path, content] = resolution.pushedTo(tokens);
    const old = resolve(resolution.edit.root, path);
    if (!Array.isArray(old)) refuse("not_an_array");
    const isUnseen = content !== undefined && content.node.view(resolution.author) === undefined;
    const count = old.length + 1 - most;
    resolution.emit("add", [...path, "-"], { value }, { isAdopted: isUnseen });
    const first = [...path, "0"];
    if (content && !isUnseen) return resolution.shorten(elements(content), first, count, most);
    for (let number = 0; number < count; number += 1) resolution.emit("remove", first);
    return undefined;
  },
};

/** Return positions and lengths to delete one after another, the last first. */
function liveRuns(sequence, pieces) {
  const runs = [];
  for (const piece of pieces) {
    const begin = sequence.before(piece);
    const last = runs.at(-1);
    if (last && last.begin + last.count === begin) last.count += piece.count;
    else runs.push({ begin, count: piece.count });
  }
  return runs.reverse();
}

/** Count the characters of the text at a path; what is none is endless, and is refused by the operation. */
function lengthAt({ edit }, path) {
  const value = resolve(edit.root, path);
  return typeof value === "string" ? [...value].length : Number.MAX_SAFE_INTEGER;
}
