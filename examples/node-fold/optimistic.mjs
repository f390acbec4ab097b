// What an event does in its author's view only: the optimistic update of a client whose operation had no effect. An
// operation that was dropped, or a rejected event, is on its author's screen while later events of the session are in
// flight.

import { index, parsePointer } from "./change.mjs";
import { Piece } from "./identity.mjs";
import { Refused } from "./json.mjs";
import { charactersOf } from "./model.mjs";
import { Gone, View } from "./view.mjs";

/** The optimistic updates of one event; `count` counts them. */
export class Optimistic {
  count = 0;

  constructor(model, author, stamp) {
    Object.assign(this, { model, author, stamp, view: new View(model, author) });
  }

  /** Do what an operation without effect does in its author's view; nothing where it means nothing there. */
  follow(item) {
    try {
      FOLLOW[item.get("op")](this, parsePointer(item.get("path")), item);
    } catch (error) {
      if (!(error instanceof Gone || error instanceof Refused)) throw error;
    }
  }

  /** Remove what is at a place from the view, wherever others moved it: a later base would show it there. */
  hide(place) {
    for (const each of place.node ? place.node.places : [place]) this.hidePlace(each);
  }

  /** Remove a place from the view, not what was there. */
  hidePlace(place) {
    this.count += 1;
    this.model.hide(place, this.stamp);
  }

  /** Give a node another value in the view. */
  cover(node) {
    this.count += 1;
    this.model.cover(node, this.stamp);
  }

  /** Insert a member, an element or characters, or a node that is elsewhere at the head. */
  show(content, key, { node, count = 1 } = {}) {
    const { members, sequence } = content;
    if (!members && !sequence) return;
    const { sees } = this.author;
    const left = () => sequence.left(index(key, sequence.count(sees) + 1), sees);
    const after = members || key === "-" ? undefined : left();
    this.count += 1;
    this.model.show(content, key, after, this.stamp, count, node);
  }

  increase(node) {
    const content = this.view.content(node, false);
    const value = this.model.valueOf(content);
    if (typeof value !== "bigint" && typeof value !== "number") return;
    this.count += 1;
    this.model.increase(content, this.stamp);
  }

  /** Return the place of an object's member in the view. */
  member(content, key) {
    if (!content.members) return undefined;
    if (content.members.has(key)) return content.member(key, this.author.sees);
    const value = this.model.valueOf(content);
    return value.has(key) ? this.model.placeIn(content, key, value) : undefined;
  }

  node(tokens) {
    return tokens.length ? this.view.place(tokens, false).ensureNode() : this.model.root;
  }

  /** Add a value that is not kept, or a node. */
  put(tokens, node) {
    if (!tokens.length) return this.cover(this.model.root);
    const [content, key] = [this.view.container(tokens.slice(0, -1), false), tokens.at(-1)];
    const seen = this.member(content, key);
    if (seen && !node) return this.cover(seen.ensureNode());
    if (seen) this.hidePlace(seen);
    return this.show(content, key, { node });
  }

  /** Give a node another value that is not kept; an element that others removed is shown anew. */
  replace(tokens) {
    if (!tokens.length) return this.cover(this.node(tokens));
    const place = this.view.place(tokens, false);
    const node = place.ensureNode();
    const isGone = !place.isLive && node.place && !node.place.isLive;
    if (!(place instanceof Piece) || !isGone || node.isOptimistic) return this.cover(node);
    this.show(place.home, String(Number(tokens.at(-1)) + 1));
    return this.hide(place);
  }

  /** Remove a node from where it is, and show it elsewhere. */
  move(tokens, source) {
    let place;
    try {
      place = this.view.place(source, false);
    } catch (gone) {
      if (!(gone instanceof Gone)) throw gone;
      return this.put(tokens); // It is in a value that is not known.
    }
    this.hide(place);
    return this.put(tokens, place.ensureNode());
  }

  insertText(tokens, position, count) {
    if (tokens.length && !position) {
      const [parent, key] = [this.view.container(tokens.slice(0, -1), false), tokens.at(-1)];
      if (parent.members && !this.member(parent, key)) return this.show(parent, key);
    }
    const content = this.view.container(tokens, false);
    const seen = content.isText ? content.sequence.count(this.author.sees) : 0;
    return content.isText && count ? this.show(content, String(Math.min(position, seen)), { count }) : undefined;
  }

  deleteText(tokens, position, count) {
    const content = this.view.container(tokens, false);
    if (!content.isText) return;
    for (const piece of content.sequence.range(position, count, this.author.sees)) this.hide(piece);
  }

  /** Add at the end of an array, and remove from its front. */
  push(tokens, most) {
    if (tokens.length) {
      const [parent, key] = [this.view.container(tokens.slice(0, -1), false), tokens.at(-1)];
      if (parent.members && !this.member(parent, key)) return this.show(parent, key);
    }
    const content = this.view.container(tokens, false);
    this.show(content, "-");
    if (content.sequence && !content.isText) {
      for (const piece of leaving(content.sequence, this.author, most)) this.hidePlace(piece);
    }
  }
}

/** The elements of an author's view that are too many, each as a piece. */
export function leaving(sequence, { sees }, most) {
  const count = Math.max(0, sequence.count(sees) - most);
  return Array.from({ length: count }, (_, position) => sequence.single(...sequence.at(position, sees)));
}

const FOLLOW = {
  add: (optimistic, tokens) => optimistic.put(tokens),
  copy: (optimistic, tokens) => optimistic.put(tokens),
  replace: (optimistic, tokens) => optimistic.replace(tokens),
  remove: (optimistic, tokens) => optimistic.hide(optimistic.view.place(tokens, false)),
  move(optimistic, tokens, item) {
    if (item.get("from") !== item.get("path")) optimistic.move(tokens, parsePointer(item.get("from")));
  },
  push: (optimistic, tokens, item) => optimistic.push(tokens, Number(item.get("max"))),
  inc: (optimistic, tokens) => optimistic.increase(optimistic.node(tokens)),
  str_ins: (optimistic, tokens, item) => optimistic.insertText(tokens, Number(item.get("pos")), charactersOf(item)),
  str_del: (optimistic, tokens, item) => optimistic.deleteText(tokens, Number(item.get("pos")), charactersOf(item)),
  test() {},
};
