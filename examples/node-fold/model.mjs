// The model of one document: what its events did to the identities of its values. It takes each effective operation
// before that changes the state, and what an event did in its author's view only.

import { index, parsePointer } from "./change.mjs";
import { Content, Member, Node, Piece, Sequence, Stamp, isLive } from "./identity.mjs";
import { isContainer, refuse } from "./json.mjs";

const IN_PLACE = ["inc", "str_del", "str_ins"];

/** The elements of an array, or the characters of a text: code points. */
export const itemsOf = (value) => (typeof value === "string" ? [...value] : value);

export class Model {
  /** `state` returns the document's state, an empty object where it is absent. */
  constructor(state) {
    this.state = state;
    this.root = new Node();
    this.begin();
  }

  /** Begin an event. */
  begin() {
    Object.assign(this, { stamps: [], moved: [] });
  }

  /** Make a stamp of the event. */
  stamp(...fields) {
    const stamp = new Stamp(...fields);
    this.stamps.push(stamp);
    return stamp;
  }

  /** Undo all of the event. */
  undo() {
    for (const stamp of this.stamps) stamp.cancel();
    for (const [node, place] of this.moved.reverse()) node.place = place;
    this.begin();
  }

  /** Return the open content of the container at a path of the head, and its value. */
  contentAt(tokens) {
    let [content, value] = [this.root.head, this.state()];
    for (const token of tokens) {
      this.open(content, value);
      const place = this.placeIn(content, token, value);
      value = value instanceof Map ? value.get(token) : value[Number(token)];
      content = place.ensureNode().head;
    }
    this.open(content, value);
    return isContainer(value) ? [content, value] : refuse("target_missing");
  }

  /** Return the place at a path of the head, which is not the root's. */
  placeAt(tokens) {
    const [content, value] = this.contentAt(tokens.slice(0, -1));
    return this.placeIn(content, tokens.at(-1), value);
  }

  /** Give places to what is in a content that has this value. */
  open(content, value) {
    if (content.isOpen) return;
    content.isOpen = true;
    content.isText = typeof value === "string";
    if (value instanceof Map) content.members = new Map();
    else if (content.isText || Array.isArray(value)) content.sequence = new Sequence(content, itemsOf(value).length);
  }

  /** Return the place of a member or an element that is in an open content, which has this value. */
  placeIn(content, token, value) {
    if (content.members) {
      if (!value.has(token)) refuse("target_missing");
      return content.member(token, isLive) ?? this.#addMember(content, token, []);
    }
    const position = index(token, isContainer(value) ? value.length : refuse("target_missing"));
    return content.sequence.single(...content.sequence.at(position, isLive));
  }

  #addMember(content, key, inserted, node) {
    const member = new Member(content, key, inserted, node);
    append(content.members, key, member);
    return member;
  }

  /** Return the value that a content has at the head, or had there last. */
  valueOf(content) {
    const { place } = content.node;
    if (content !== content.node.head) return content.value;
    if (place === undefined) return this.state();
    if (!place.isLive) return place instanceof Piece ? place.value?.[0] : place.value;
    const above = this.valueOf(place.home);
    return above instanceof Map ? above.get(place.key) : above[Number(place.key)];
  }

  /**
   * Take an effective operation other than a `move`, before it changes the state. An insertion comes after the piece
   * `after`, else after what is before its position; `isUnseen`: its author does not see the removal; `isAdopted`: its
   * author sees the value of others that it writes to.
   */
  apply(operation, stamp, { after, isUnseen = false, isAdopted = false } = {}) {
    const [name, tokens] = [operation.get("op"), parsePointer(operation.get("path"))];
    if (name === "test") return;
    if (!tokens.length) {
      if (IN_PLACE.includes(name)) this.#change(this.root, operation, stamp, after);
      else this.#write(this.root, this.state(), stamp);
      return;
    }
    const [[content, value], key] = [this.contentAt(tokens.slice(0, -1)), tokens.at(-1)];
    const isWritten = name === "replace" || (content.members && value.has(key));
    if (name === "remove") this.remove(this.placeIn(content, key, value), stamp, value, isUnseen);
    else if (IN_PLACE.includes(name) && (isWritten || !content.members)) {
      this.#change(this.placeIn(content, key, value).ensureNode(), operation, stamp, after);
    } else if (isWritten) {
      const place = this.placeIn(content, key, value);
      this.#write(place.ensureNode(), content.members ? value.get(key) : value[Number(key)], stamp);
      if (isAdopted && place.inserted.length) place.inserted.push(stamp);
    } else {
      this.#insert(content, key, stamp, after);
      if (isAdopted) content.adopt(stamp);
    }
  }

  /** Give a node another value. */
  #write(node, old, stamp) {
    node.head.value = old;
    node.contents.push(new Content(node, stamp));
    if (node.place) this.#note(node.place, stamp);
  }

  /** Change a number or a text. */
  #change(node, operation, stamp, after) {
    const content = node.head;
    const value = this.valueOf(content);
    if (operation.get("op") === "inc") content.amounts.push({ stamp, amount: operation.get("inc"), before: value });
    else if (typeof value === "string") {
      this.open(content, value);
      this.#changeText(content.sequence, itemsOf(value), operation, stamp, after);
    }
    content.writes.push(stamp);
    if (node.place) this.#touch(node.place.home, stamp);
  }

  #changeText(sequence, characters, operation, stamp, after) {
    const count = charactersOf(operation);
    const position = Math.min(Number(operation.get("pos")), characters.length);
    if (operation.get("op") === "str_ins") {
      const left = after === undefined ? sequence.left(position, isLive) : after;
      if (count) sequence.insert(left, new Piece(sequence, count, [stamp]));
      return;
    }
    let at = position;
    for (const piece of sequence.range(position, count, isLive)) {
      piece.value = characters.slice(at, (at += piece.count));
      piece.removed.push(stamp);
    }
  }

  #insert(content, key, stamp, after, node) {
    let place;
    if (content.members) place = this.#addMember(content, key, [stamp], node);
    else {
      const { sequence } = content;
      place = new Piece(sequence, 1, [stamp], node);
      const before = (token) => sequence.left(index(token, sequence.count(isLive) + 1), isLive);
      sequence.insert(after === undefined && key !== "-" ? before(key) : after, place);
    }
    if (node) {
      this.moved.push([node, node.place]);
      node.place = place;
      node.moves.push(stamp);
    }
    this.#note(place, stamp);
  }

  /** Remove a place from the head; `value` is its container's. */
  remove(place, stamp, value, isUnseen = false) {
    this.#note(place, stamp);
    const { key } = place;
    place.value = place instanceof Piece ? [value[Number(key)]] : value.get(key);
    place.removed.push(isUnseen ? this.stamp(0, stamp.version) : stamp);
  }

  /** Put a node that has left its place where a `move` puts it, as the state is meanwhile. */
  put(tokens, node, stamp, after) {
    const [[content, value], key] = [this.contentAt(tokens.slice(0, -1)), tokens.at(-1)];
    if (content.members && value.has(key)) this.remove(this.placeIn(content, key, value), stamp, value);
    this.#insert(content, key, stamp, after, node);
  }

  #note(place, stamp) {
    const { home } = place;
    if (place instanceof Member) append(home.keys, place.key, stamp);
    this.#touch(home, stamp);
  }

  /** Note a write in all containers around it. */
  #touch(content, stamp) {
    for (let around = content; around; around = around.node.place?.home) around.writes.push(stamp);
  }

  // What an event did in its author's view only; the stamps are optimistic

  /** Remove a place. */
  hide(place, stamp) {
    place.removed.push(stamp);
  }

  /** Give a node a value, which is not kept. */
  cover(node, stamp) {
    node.contents.push(new Content(node, stamp));
  }

  /** Insert a member by its key, or a piece after another; of `node`, where that is elsewhere at the head. */
  show(content, key, after, { sequence, version, session, reason }, count, node) {
    // A view whose base has the removal of a node does not show it elsewhere.
    const gone = [node?.head.goneBy(), node?.isOptimistic ? node.contents[0].stamp : undefined].filter(Boolean);
    const until = Math.min(version, ...gone.map((by) => by.version));
    const stamp = this.stamp(sequence, until, session, reason);
    if (content.members) this.#addMember(content, key, [stamp], node);
    else content.sequence.insert(after, new Piece(content.sequence, count, [stamp], node));
  }

  /** Note that a number differs. */
  increase(content, stamp) {
    content.amounts.push({ stamp, amount: 0n, before: this.valueOf(content) });
  }
}

/** How many characters a text operation inserts or deletes. */
export const charactersOf = (operation) =>
  operation.has("str") ? [...operation.get("str")].length : Number(operation.get("len"));

function append(lists, key, item) {
  if (!lists.has(key)) lists.set(key, []);
  lists.get(key).push(item);
}
