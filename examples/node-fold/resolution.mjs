// One stale event while it is resolved: what it has done at the head so far, and what came of conflicts. The strategies
// first_write_wins, last_write_wins and merge are decided here.

import { index, renderPointer, resolve, startsWith } from "./change.mjs";
import { applyOperation } from "./extensions.mjs";
import { Author, isLive, union } from "./identity.mjs";
import { copy, identical, refuse, size, write } from "./json.mjs";
import { canMerge, memberChanges, merged } from "./merge3.mjs";
import { Optimistic, leaving } from "./optimistic.mjs";
import { Gone, TARGET_GONE, View } from "./view.mjs";

/**
 * What the event overwrote, what it was merged with, what was dropped, and its effective patch, each operation in
 * canonical text. `steps` counts what another model could not know from the effective patch.
 */
export class Resolution {
  constructor(model, edit, author, version, { strategy, limits }) {
    const stamp = model.stamp(author.sequence, version, author.session);
    const optimisticStamp = model.stamp(author.sequence, version, author.session, TARGET_GONE);
    Object.assign(this, { model, edit, author, strategy, limits, stamp, optimisticStamp });
    Object.assign(this, { overwrote: new Set(), merged: new Set(), dropped: [], effect: [], notes: 0 });
    this.isFirst = strategy === "first_write_wins";
    this.view = new View(model, author);
    this.optimistic = new Optimistic(model, author, optimisticStamp);
  }

  get steps() {
    return this.notes + this.optimistic.count;
  }

  /** Apply one operation at the head, and add it to effect and model; for `how` see `Model.apply`. */
  emit(op, tokens, members = {}, how = {}) {
    const operation = new Map([["op", op], ["path", renderPointer(tokens)], ...Object.entries(members)]);
    this.note(how);
    this.model.apply(operation, this.stamp, how);
    this.effect.push(write(operation));
    applyOperation(this.edit, operation);
  }

  /** Count what a model cannot know from the next operation of the effect. */
  note({ after, isUnseen, isAdopted }) {
    if (this.effect.length >= this.limits.operations) refuse("too_many_operations");
    this.notes += [after && !after.isLive, isUnseen, isAdopted].filter(Boolean).length;
  }

  /** Note what others wrote to the same node since; the first write may win. */
  overwrite(versions) {
    if (versions.size && this.isFirst) refuse("conflict");
    this.overwrote = union(this.overwrote, versions);
  }

  /** Return where an array's gap is at the head, and the piece before it. */
  gap(content, key) {
    const [sequence, path] = [elements(content), content.node.path()];
    if (key === "-") return [[...path, "-"], undefined];
    const { sees } = this.author;
    const left = sequence.left(index(key, sequence.count(sees) + 1), sees);
    return [[...path, String(sequence.after(left))], left];
  }

  /** Find a value that is at the head. Throws `Gone`. */
  alive(tokens) {
    const found = this.view.find(tokens);
    if (found.isBelow) resolve(this.edit.root, found.path());
    else this.checkAlive(found.node);
    return found;
  }

  checkAlive(node) {
    checkKnown(node);
    if (!node.isAlive()) throw new Gone(TARGET_GONE, node.head.goneBy());
  }

  /** Tell whether the author sees no such member in an object, and the head has none that it continues. */
  isAbsent(tokens) {
    if (!tokens.length) return false;
    const [parent, key] = [this.view.find(tokens.slice(0, -1)), tokens.at(-1)];
    const content = this.view.opened(parent);
    if (content?.members?.has(key)) {
      const live = content.member(key, isLive);
      return !content.member(key, this.author.sees) && !(live && isContinued(live, this.author));
    }
    const value = resolve(this.edit.root, parent.path());
    return value instanceof Map && !value.has(key);
  }

  /** Add a member that is absent. */
  create(tokens, value) {
    const [parent, key] = [this.view.find(tokens.slice(0, -1)), tokens.at(-1)];
    const content = this.view.opened(parent);
    if (content?.members?.has(key)) this.putMember(content, key, value);
    else this.emit("add", [...parent.path(), key], { value });
  }

  /** Return the version of others that took a node from the head. */
  goneBy(node) {
    const by = node.head.goneBy();
    return by ? this.author.others([by]) : new Set();
  }

  writeMember(content, key, op, value, tokens) {
    const { author, view } = this;
    const [seen, live] = [content.member(key, author.sees), content.member(key, isLive)];
    if (op === "replace") {
      const { node } = view.find(tokens);
      if (!live) checkKnown(node);
    }
    if (seen?.ensureNode().isAlive()) {
      this.writeNode(seen.ensureNode(), seen, op, value);
      return;
    }
    this.putMember(content, key, value);
  }

  /** Add a member that was touched, where what the author sees there is not at the head. */
  putMember(content, key, value) {
    const { sees } = this.author;
    const [seen, live] = [content.member(key, sees), content.member(key, isLive)];
    const gone = seen && !seen.ensureNode().isOptimistic ? this.goneBy(seen.ensureNode()) : new Set();
    const written = live ? live.ensureNode().written(this.author, live) : new Set();
    this.overwrite(union(this.author.others(content.stampsOf(key)), gone, written));
    const path = [...content.node.path(), key];
    const isAdopted = live !== undefined && isContinued(live, this.author);
    if (live && !isAdopted) this.emit("remove", path);
    this.emit("add", path, { value }, { isAdopted });
    this.hideOthers(content, key);
  }

  /** Remove from the author's view what was at a member before the author wrote or moved something there. */
  hideOthers(content, key) {
    const put = content.member(key, isLive);
    const shown = (content.members.get(key) ?? []).filter((place) => place !== put && this.author.sees(place));
    for (const place of shown) this.optimistic.hidePlace(place);
  }

  /** Write to a node that is at the head, wherever it is. */
  writeNode(node, place, op, value) {
    const versions = node.written(this.author, place);
    if (versions.size && this.strategy === "merge" && this.merge(node, value, versions)) return;
    this.overwrite(versions);
    this.emit(place === node.place ? op : "replace", node.path(), { value });
  }

  /** Merge a value with what others wrote to the same node since; tell whether both kinds of value can be. */
  merge(node, value, versions) {
    const { base, session, sequence } = this.author;
    const [path, incoming] = [node.path(), copy(value)];
    const head = resolve(this.edit.root, path);
    const seen = attempt(() => new View(this.model, new Author(base, session, sequence, false)).value(node));
    // Without a value, the author does not know what others made there.
    if (seen === undefined || !canMerge(seen, head, incoming)) return false;
    this.merged = union(this.merged, versions);
    const isOther = (below) => below.length > 0 && this.isMovedIn([...path, ...below]);
    for (const [op, below, member] of memberChanges(head, merged(seen, head, incoming), isOther)) {
      this.writeMerged(op, [...path, ...below], member === undefined ? {} : { value: copy(member) }, below.length > 0);
    }
    const shown = attempt(() => this.view.value(node));
    if (shown === undefined || !identical(shown, incoming)) this.optimistic.cover(node);
    return true;
  }

  /** Tell whether others have moved what is at a member of the head there since the base. */
  isMovedIn(tokens) {
    const [content] = this.model.contentAt(tokens.slice(0, -1));
    const live = content.member(tokens.at(-1), isLive);
    return live !== undefined && isForeign(live, this.author);
  }

  /** Change a value as a merge does; what others moved to a member is removed. */
  writeMerged(op, tokens, members, isMember) {
    const isReplaced = op === "replace" && isMember && this.isMovedIn(tokens);
    if (isReplaced) this.emit("remove", tokens);
    this.emit(isReplaced ? "add" : op, tokens, members);
    if (isReplaced || op === "add") this.hideOthers(this.model.contentAt(tokens.slice(0, -1))[0], tokens.at(-1));
  }

  /** Put an element that was removed back to where the author sees it. */
  revive(place, value) {
    this.overwrite(this.goneBy(place.ensureNode()));
    const { sequence } = place;
    this.emit("add", [...place.home.node.path(), String(sequence.after(place))], { value }, { after: place });
    this.optimistic.hide(place);
  }

  /** Return a move's container, and check what others did to the member there. */
  target(tokens, node) {
    const [content, key] = [this.view.container(tokens.slice(0, -1)), tokens.at(-1)];
    if (startsWith(content.node.path(), node.path())) refuse("cycle");
    if (!content.members) this.gap(content, key);
    else if (content.members.has(key)) {
      const live = content.member(key, isLive);
      const written = live && live !== node.place ? live.ensureNode().written(this.author, live) : new Set();
      this.overwrite(union(this.author.others(content.stampsOf(key)), written));
    }
    return content;
  }

  /** Move a node at the head, by way of the end of its array where the new path would begin with the old. */
  carry(node, target, key) {
    const leaves = node.path();
    const value = resolve(this.edit.root, leaves);
    this.model.remove(node.place, this.stamp, resolve(this.edit.root, leaves.slice(0, -1)));
    this.edit.carry(size(value));
    this.change("remove", leaves);
    const [path, left] = target.sequence ? this.gap(target, key) : [[...target.node.path(), key], undefined];
    const isBelow = path.length > leaves.length && startsWith(path, leaves);
    const [put, after] = isBelow ? [[...leaves.slice(0, -1), "-"], undefined] : [path, left];
    this.note({ after });
    this.model.put(put, node, this.stamp, after);
    const [from, to] = [renderPointer(leaves), renderPointer(put)];
    this.effect.push(write(new Map([["op", "move"], ["from", from], ["path", to]])));
    this.change("add", put, { value });
    if (isBelow) this.carry(node, target, key);
    else if (target.members) this.hideOthers(target, key);
  }

  /** Change the state only. */
  change(op, tokens, members = {}) {
    applyOperation(this.edit, new Map([["op", op], ["path", renderPointer(tokens)], ...Object.entries(members)]));
  }

  /** Return a text's content, where it was touched, and its path at the head. */
  text(tokens) {
    const found = this.alive(tokens);
    const content = this.view.opened(found);
    return [content?.isText ? content.sequence : undefined, found.path()];
  }

  /** Return the path at the head of an array to push to, and its content where something in it was touched. */
  pushedTo(tokens) {
    if (tokens.length) {
      const [above, key] = [this.view.opened(this.view.find(tokens.slice(0, -1))), tokens.at(-1)];
      const live = above?.members?.has(key) ? above.member(key, isLive) : undefined;
      // Others made it meanwhile.
      if (live && !above.member(key, this.author.sees)) return [[...above.node.path(), key], live.ensureNode().head];
    }
    const found = this.alive(tokens);
    if (found.isBelow) return [found.path(), undefined];
    const isUnseen = found.node.view(this.author) === undefined;
    return [found.path(), isUnseen ? found.node.head : this.view.opened(found)];
  }

  /** Remove elements from the front of an array at the head, and those of the author's view from the view. */
  shorten(sequence, path, count, most) {
    const { sees } = this.author;
    const known = leaving(sequence, this.author, most);
    for (let number = 0; number < count; number += 1) {
      const first = sequence.single(...sequence.at(0, isLive));
      this.emit("remove", path, {}, { isUnseen: sees(first) && !known.includes(first) });
    }
    for (const piece of known.filter(sees)) this.optimistic.hidePlace(piece);
  }
}

/** Return the elements of an array. */
export function elements({ sequence, isText }) {
  return sequence && !isText ? sequence : refuse("target_missing");
}

/** Throw `Gone` for a value that only the author sees. */
export function checkKnown(node) {
  if (node.isOptimistic) throw new Gone(node.contents[0].stamp.reason);
}

/** Return a value; undefined where it is gone. */
export function attempt(act) {
  try {
    return act();
  } catch (gone) {
    if (!(gone instanceof Gone)) throw gone;
    return undefined;
  }
}

/**
 * Tell whether a value that an author writes to a member is another value of what others made there. What was moved
 * there is another thing, and what the author removed ends.
 */
function isContinued(live, author) {
  return !isForeign(live, author) && !live.removed.some((stamp) => author.knows(stamp));
}

/** Tell whether others have moved what is at a place there since the base. */
function isForeign(live, author) {
  const [inserted] = live.inserted;
  return inserted !== undefined && live.ensureNode().moves.includes(inserted) && !author.knows(inserted);
}
