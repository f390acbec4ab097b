// Identities of the values of one document: what became of each, and what an author sees of it.
//
// A node is a value with an identity, which it keeps where it is moved or written. A place is where a node is or was: a
// member of an object, or a piece of an array or of a text. A content is what a node holds from one write to the next.
// A removed place stays, as an author who does not know of the removal still sees it. The head and each author's view
// are filters over the same places.

/**
 * The event that inserted, removed or wrote something. `version` is the one that it made or, of a rejected event, the
 * one at which it was rejected. What is optimistic was done in the views of its session only, while their base is below
 * that version; `reason` says why an operation on what was made by it is dropped.
 */
export class Stamp {
  constructor(sequence, version, session, reason = "") {
    Object.assign(this, { sequence, version, session, reason, isOptimistic: reason !== "" });
  }

  /** Make it as if the event had never been. */
  cancel() {
    Object.assign(this, { sequence: 0, session: undefined, isOptimistic: true, isCancelled: true });
  }
}

/** Whose view it is: an event's base, session and sequence. Without `isOptimistic`, what had no effect is left out. */
export class Author {
  constructor(base, session, sequence, isOptimistic = true) {
    Object.assign(this, { base, session, sequence, isOptimistic });
    this.sees = this.sees.bind(this);
  }

  /** Tell whether what was stamped is done in the author's view. */
  knows(stamp) {
    if (stamp.isOptimistic && !this.isOptimistic) return false;
    if (stamp.sequence === this.sequence) return true;
    if (stamp.isOptimistic) return this.#isOwn(stamp) && this.base < stamp.version;
    return this.#isOwn(stamp) || stamp.version <= this.base;
  }

  /** Tell whether a place is in the author's view of its container. */
  sees({ inserted, removed }) {
    const knows = (stamp) => this.knows(stamp);
    return (!inserted.length || inserted.some(knows)) && !removed.some(knows);
  }

  /** Return the versions after the base that other sessions made; the newest stamps are last. */
  others(stamps) {
    const versions = new Set();
    for (let at = stamps.length - 1; at >= 0 && stamps[at].version > this.base; at -= 1) {
      if (!stamps[at].isOptimistic && !this.#isOwn(stamps[at])) versions.add(stamps[at].version);
    }
    return versions;
  }

  #isOwn({ sequence, session }) {
    return sequence === this.sequence || (session !== undefined && session === this.session);
  }
}

export const isLive = (place) => place.isLive;

/** Where a node is or was. `inserted` is empty for what was always there, `value` is what left the head with it. */
class Place {
  constructor(inserted, node) {
    Object.assign(this, { inserted, removed: [], node, value: undefined });
    node?.places.push(this);
  }

  /** Whether it is at the head of its container. */
  get isLive() {
    const isEffective = (stamp) => !stamp.isOptimistic;
    return (!this.inserted.length || this.inserted.some(isEffective)) && !this.removed.some(isEffective);
  }

  /** The node at the place, made when it is needed. */
  ensureNode() {
    this.node ??= new Node(this, this.inserted[0]);
    return this.node;
  }
}

/** A member of an object; `home` is the object's content. */
export class Member extends Place {
  constructor(home, key, inserted, node) {
    super(inserted, node);
    Object.assign(this, { home, key });
  }
}

/** A run of elements or characters with one fate. An element that was touched is a piece of its own. */
export class Piece extends Place {
  constructor(sequence, count, inserted, node) {
    super(inserted, node);
    Object.assign(this, { sequence, count });
  }

  get home() {
    return this.sequence.content;
  }

  get key() {
    return String(this.sequence.before(this));
  }
}

/** A value with an identity; `place` is where it is at the head, or was last, undefined for the root. */
export class Node {
  moves = [];

  constructor(place, stamp) {
    this.place = place;
    this.places = place ? [place] : [];
    this.contents = [new Content(this, stamp)];
  }

  /** What it holds at the head. */
  get head() {
    return this.contents.findLast((content) => !content.isOptimistic) ?? this.contents[0];
  }

  /** What it holds in an author's view; undefined where the author does not know what. */
  view(author) {
    const knows = (stamp) => author.knows(stamp);
    return this.contents.findLast(({ stamp, adopted }) => !stamp || knows(stamp) || adopted.some(knows));
  }

  /** Whether it never was at the head. */
  get isOptimistic() {
    return this.contents[0].isOptimistic;
  }

  isAlive() {
    const { place } = this;
    return place === undefined || (place.isLive && place.home.isAlive());
  }

  /** Its path at the head, where it must be alive. */
  path() {
    return this.place === undefined ? [] : [...this.place.home.node.path(), this.place.key];
  }

  /** Return the versions of others that wrote it, or in it, or to the member where the author sees it. */
  written(author, seen) {
    const stamps = this.contents.map(({ stamp }) => stamp).filter(Boolean);
    const keyed = seen instanceof Member && seen === this.place ? seen.home.stampsOf(seen.key) : [];
    return union(author.others(stamps), author.others(this.head.writes), author.others(keyed));
  }
}

/**
 * What a node holds from one write to the next; `stamp` is the write, undefined for what was always there. It is
 * opened when something in it is touched: then it has `members`, or a `sequence`. `writes` are all writes below it,
 * `keys` those of each member, `adopted` pushes of authors who did not know of it, `amounts` what was added to a
 * number, `value` what it was when it was overwritten.
 */
export class Content {
  constructor(node, stamp) {
    Object.assign(this, { node, stamp, writes: [], keys: new Map(), adopted: [], amounts: [], isOpen: false });
  }

  get isOptimistic() {
    return this.stamp !== undefined && this.stamp.isOptimistic;
  }

  /** Whether it is at the head. */
  isAlive() {
    return this === this.node.head && this.node.isAlive();
  }

  /** Let an author who pushed to an array that it does not know see it, with its own elements. */
  adopt(stamp) {
    if (!this.stamp || !this.node.place || !this.sequence) return;
    if (this.node.place.inserted.length) this.node.place.inserted.push(stamp);
    this.adopted.push(stamp);
    // The write brought the first items.
    for (const piece of this.sequence.pieces) if (!piece.inserted.length) piece.inserted.push(this.stamp);
  }

  /** The writes to a member. */
  stampsOf(key) {
    return this.keys.get(key) ?? [];
  }

  /** Return the last place of a member that was touched, of those that the function tells. */
  member(key, isIn) {
    return (this.members.get(key) ?? []).findLast(isIn);
  }

  /** Return what took it, or what holds it, from the head. */
  goneBy() {
    const { node } = this;
    const isEffective = ({ isOptimistic }) => !isOptimistic;
    if (this !== node.head) return node.contents.slice(node.contents.indexOf(this) + 1).find(isEffective).stamp;
    if (node.place === undefined) return undefined;
    return node.place.removed.find(isEffective) ?? node.place.home.goneBy();
  }
}

/**
 * The elements of an array, or the characters of a text, as pieces in one order for all: whoever sees two of them sees
 * them in this order. A run that nothing touched is one piece. `isIn` says which pieces count: `isLive` or
 * `author.sees`.
 */
export class Sequence {
  constructor(content, count) {
    this.content = content;
    this.pieces = count ? [new Piece(this, count, [])] : [];
  }

  count(isIn) {
    return this.pieces.reduce((sum, piece) => sum + (isIn(piece) ? piece.count : 0), 0);
  }

  /** Return the piece with the item at a position, and the item's offset in it. */
  at(position, isIn) {
    let offset = position;
    for (const piece of this.pieces) {
      if (!isIn(piece)) continue;
      if (offset < piece.count) return [piece, offset];
      offset -= piece.count;
    }
    throw new RangeError(`nothing at ${position}`);
  }

  /** Return the pieces of a range, as much of it as there is. */
  range(position, count, isIn) {
    const pieces = [];
    const end = Math.min(position + count, this.count(isIn));
    for (let at = position; at < end; at += pieces.at(-1).count) {
      const piece = this.cut(...this.at(at, isIn));
      this.cut(piece, end - at);
      pieces.push(piece);
    }
    return pieces;
  }

  /** Return the piece of one item. */
  single(piece, offset) {
    const one = this.cut(piece, offset);
    this.cut(one, 1);
    return one;
  }

  /** Return the piece that ends before a position; null at the front. */
  left(position, isIn) {
    if (position === 0) return null;
    const [piece, offset] = this.at(position - 1, isIn);
    this.cut(piece, offset + 1);
    return piece;
  }

  /** Count the items of the head before a piece. */
  before(piece) {
    let count = 0;
    for (const other of this.pieces) {
      if (other === piece) break;
      if (other.isLive) count += other.count;
    }
    return count;
  }

  /** Return the position at the head of what comes after a piece; null is the front. */
  after(piece) {
    return piece === null ? 0 : this.before(piece) + (piece.isLive ? piece.count : 0);
  }

  /** Insert directly after a piece; null is the front, undefined the very end. */
  insert(left, piece) {
    const at = left === undefined ? this.pieces.length : this.pieces.indexOf(left) + 1;
    this.pieces.splice(at, 0, piece);
  }

  /** Divide a piece before an item and return the second part; the first keeps the object. */
  cut(piece, offset) {
    if (offset <= 0 || offset >= piece.count) return piece;
    const rest = new Piece(this, piece.count - offset, [...piece.inserted]);
    rest.removed = [...piece.removed];
    rest.value = piece.value?.slice(offset);
    piece.value = piece.value?.slice(0, offset);
    piece.count = offset;
    this.insert(piece, rest);
    return rest;
  }
}

export const union = (...sets) => new Set(sets.flatMap((set) => [...set]));
