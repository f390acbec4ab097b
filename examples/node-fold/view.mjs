// What pointers and values are in an author's view: the document at the base, with the author's own events since.

import { index, renderPointer, resolve, withoutNulls } from "./change.mjs";
import { sum } from "./extensions.mjs";
import { Refused, byCodePoint, refuse } from "./json.mjs";
import { itemsOf } from "./model.mjs";

export const TARGET_GONE = "target_gone";
export const DEPENDS_ON_REJECTED = "depends_on_rejected";

/** What an operation means is not at the head any more; `by` took it away, undefined where it never was there. */
export class Gone extends Error {
  constructor(reason, by) {
    super(reason);
    Object.assign(this, { reason, by });
  }
}

/** What a pointer means: a node, where the author sees it, and tokens below it that lead into what is untouched. */
class Found {
  constructor(node, place, rest) {
    Object.assign(this, { node, place, rest });
  }

  /** Whether it is below all that was touched. */
  get isBelow() {
    return this.rest.length > 0;
  }

  /** Its path at the head, where it must be alive. */
  path() {
    return [...this.node.path(), ...this.rest];
  }
}

/** An author's view. Where `isHead` is false, pointers may lead through what is not at the head any more. */
export class View {
  constructor(model, author) {
    Object.assign(this, { model, author });
  }

  /** Find what a pointer means. Throws `Gone`, and `Refused` where it means nothing. */
  find(tokens, isHead = true) {
    let [node, place] = [this.model.root, undefined];
    for (const [at, token] of tokens.entries()) {
      const content = this.content(node, isHead);
      if (!content.isOpen || (content.members && !content.members.has(token))) {
        return new Found(node, place, tokens.slice(at));
      }
      if (content.members) place = this.#member(content, token, isHead);
      else if (content.sequence && !content.isText) {
        const { sequence } = content;
        const [piece, offset] = sequence.at(index(token, sequence.count(this.author.sees)), this.author.sees);
        if (!piece.node && piece.isLive) {
          return new Found(node, place, [String(sequence.before(piece) + offset), ...tokens.slice(at + 1)]);
        }
        place = sequence.single(piece, offset);
      } else refuse("target_missing");
      node = place.ensureNode();
    }
    return new Found(node, place, []);
  }

  #member(content, key, isHead) {
    const seen = content.member(key, this.author.sees);
    const by = content.stampsOf(key).findLast((stamp) => this.author.others([stamp]).size);
    // Others have made it meanwhile.
    if (!seen && isHead && by) throw new Gone(TARGET_GONE, by);
    return seen ?? refuse("target_missing");
  }

  /** Return what a node holds for the author. Throws `Gone`. */
  content(node, isHead = true) {
    const content = node.view(this.author);
    if (!content) throw new Gone(TARGET_GONE, node.contents[0].stamp);
    if (content.isOptimistic) throw new Gone(content.stamp.reason);
    if (isHead && !content.isAlive()) throw new Gone(TARGET_GONE, content.goneBy());
    return content;
  }

  /** Return what is found as a content with places; undefined where nothing in it was touched. */
  opened(found) {
    const content = found.isBelow ? undefined : this.content(found.node);
    return content?.isOpen ? content : undefined;
  }

  /** Return the place that a pointer means, which is not the root's, made where it is untouched. */
  place(tokens, isHead = true) {
    const found = this.find(tokens, isHead);
    let { place } = found;
    let content = found.isBelow ? this.content(found.node, isHead) : undefined;
    for (const token of found.rest) {
      const value = this.model.valueOf(content);
      this.model.open(content, value);
      place = this.model.placeIn(content, token, value);
      content = place.ensureNode().head;
    }
    return place;
  }

  /** Return the open content of a container that a pointer means. */
  container(tokens, isHead = true) {
    const node = tokens.length ? this.place(tokens, isHead).ensureNode() : this.model.root;
    const content = this.content(node, isHead);
    this.model.open(content, this.model.valueOf(content));
    return content;
  }

  /** Return what the author sees a node hold; it may share parts with the document. Throws `Gone`. */
  value(node) {
    const content = this.content(node, false);
    const value = this.model.valueOf(content);
    if (typeof value === "bigint" || typeof value === "number") return this.#sum(content, value);
    if (!content.members && !content.sequence) return value;
    if (content.members) return this.#object(content.members, value);
    const items = this.#items(content, value);
    return content.isText ? items.join("") : items;
  }

  /**
   * The number that was written, with the amounts that the author knows of. Its own `inc` may have been applied to a
   * number that others wrote later.
   */
  #sum(content, value) {
    const { contents } = content.node;
    const written = content.amounts.find(({ stamp }) => !stamp.isCancelled)?.before ?? value;
    const amounts = contents.slice(contents.indexOf(content)).flatMap((each) => each.amounts);
    const known = amounts.filter(({ stamp }) => this.author.knows(stamp));
    const optimistic = known.find(({ stamp }) => stamp.isOptimistic);
    if (optimistic) throw new Gone(optimistic.stamp.reason);
    return known.reduce((total, { amount }) => sum(total, amount), written);
  }

  #object(members, value) {
    const found = new Map(value);
    // In order, as the first part that is not known is named.
    for (const key of [...members.keys()].sort(byCodePoint)) {
      const seen = members.get(key).findLast(this.author.sees);
      if (!seen) found.delete(key);
      else if (seen.node || !seen.isLive) found.set(key, this.#at(seen));
    }
    return found;
  }

  #items({ sequence, isText }, value) {
    const [items, found] = [itemsOf(value), []];
    let begin = 0;
    for (const piece of sequence.pieces) {
      const end = begin + (piece.isLive ? piece.count : 0);
      if (this.author.sees(piece)) {
        if (piece.isLive && !piece.node) found.push(...items.slice(begin, end));
        else if (isText) found.push(...this.#known(piece).value);
        else found.push(this.#at(piece));
      }
      begin = end;
    }
    return found;
  }

  #at(place) {
    return this.value(this.#known(place).ensureNode());
  }

  /** Throw `Gone` where only the author sees a place: its value is not kept. */
  #known(place) {
    if (place.inserted[0]?.isOptimistic) throw new Gone(place.inserted[0].reason);
    return place;
  }

  /** Return the operations that a merge patch is in the author's view. */
  mergeOperations(change, tokens = []) {
    if (this.#isWritten(change, tokens)) {
      const path = renderPointer(tokens);
      if (change === null && tokens.length) return [new Map([["op", "remove"], ["path", path]])];
      return [new Map([["op", "add"], ["path", path], ["value", withoutNulls(change)]])];
    }
    if (change === null) return [];
    const keys = [...change.keys()].sort(byCodePoint);
    return keys.flatMap((key) => this.mergeOperations(change.get(key), [...tokens, key]));
  }

  /** Tell whether a merge patch writes at a pointer, and not in an object there. */
  #isWritten(change, tokens) {
    try {
      return !(this.#isObject(tokens) && change instanceof Map);
    } catch (refused) {
      if (!(refused instanceof Refused)) throw refused;
      return change !== null;
    }
  }

  /** Tell whether a pointer means an object, or what only the author sees. */
  #isObject(tokens) {
    let found;
    try {
      found = this.find(tokens, false);
    } catch (gone) {
      if (!(gone instanceof Gone)) throw gone;
      return false; // It is in what only the author sees: as a whole.
    }
    const content = found.node.view(this.author);
    return !content || content.isOptimistic || resolve(this.model.valueOf(content), found.rest) instanceof Map;
  }
}
