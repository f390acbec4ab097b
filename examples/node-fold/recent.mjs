// A document's last changes, and the model of identities that is brought up to them when a stale event comes.

import { Edit, LIMITS, parsePointer, renderPointer, resolve } from "./change.mjs";
import { authorHeaders, openEvent } from "./event.mjs";
import { applyOperation } from "./extensions.mjs";
import { copy, parse } from "./json.mjs";
import { Model } from "./model.mjs";

export const WINDOW_VERSIONS_MAX = 1_000;
export const WINDOW_BYTES_MAX = 4 * 1024 * 1024;

/**
 * `changes` are the effective events, and the rejected ones that may be in the view of their session; `pending` those
 * that the model does not have yet.
 */
export class Recent {
  #state = new Map();
  #model = new Model(() => this.#state);
  #changes = [];
  #pending = [];
  #resolved = 0;

  /** Add the document's next event; `session` is the author's. */
  append(record, { status, version, effect, conflict, steps = 0 }, session) {
    const isEffective = status === "applied" || status === "merged";
    if (!isEffective && !conflict) return;
    const length = effect === undefined ? record.body.length : Buffer.byteLength(effect);
    const bytes = isEffective ? length : 0;
    const change = { version: Number(version), session, isEffective, hasSteps: steps > 0, bytes };
    this.#changes.push(change);
    this.#pending.push({ record, change, effect });
    if (this.#pending.length > 2 * WINDOW_VERSIONS_MAX) this.#forget();
  }

  /** Return the changes after a version. */
  since(base) {
    return this.#changes.slice(this.#changes.findLastIndex(({ version }) => version <= base) + 1);
  }

  /** Note that the model has all of the event at a sequence, which is appended next. */
  resolved(sequence) {
    this.#resolved = sequence;
  }

  /** Bring the model up to the last event. */
  caughtUp() {
    this.#model.state = () => this.#state;
    for (const { record, change, effect } of this.#pending) {
      const isKnown = record.sequence === this.#resolved;
      const stamp = isKnown ? undefined : this.#model.stamp(record.sequence, change.version, change.session);
      for (const operation of change.isEffective ? operationsOf(record, effect) : []) this.#take(operation, stamp);
    }
    this.#pending = [];
    return this.#model;
  }

  /** Begin again after the events that no base can be before. */
  #forget() {
    this.#model = new Model(() => this.#state);
    for (const { record, change, effect } of this.#pending.splice(0, WINDOW_VERSIONS_MAX)) {
      for (const operation of change.isEffective ? operationsOf(record, effect) : []) this.#take(operation);
    }
    this.#changes = this.#changes.slice(-this.#pending.length);
  }

  /** Take an effective operation into the state and, with a stamp, before that into the model. */
  #take(operation, stamp) {
    const [path, from] = [operation.get("path"), operation.get("from")];
    const isMove = operation.get("op") === "move";
    if (isMove && from === "") return; // The root, to its own place.
    if (isMove && path !== "" && stamp) this.#move(path, from, stamp);
    else if (isMove && path === "") {
      // What the root was keeps the value that was moved to the root.
      const value = copy(resolve(this.#state, parsePointer(from)));
      this.#take(new Map([["op", "replace"], ["path", ""], ["value", value]]), stamp);
    } else {
      if (stamp) this.#model.apply(operation, stamp);
      this.#change(operation);
    }
  }

  #move(path, from, stamp) {
    const source = parsePointer(from);
    const [place, value] = [this.#model.placeAt(source), resolve(this.#state, source)];
    this.#model.remove(place, stamp, resolve(this.#state, source.slice(0, -1)));
    this.#change(new Map([["op", "remove"], ["path", from]]));
    this.#model.put(parsePointer(path), place.ensureNode(), stamp);
    this.#change(new Map([["op", "add"], ["path", path], ["value", value]]));
  }

  #change(operation) {
    const edit = new Edit(this.#state, 0);
    applyOperation(edit, operation);
    this.#state = edit.root;
  }
}

/** Return what an effective event did; what was deleted is an empty object until it is written. */
function operationsOf(record, effect) {
  if (effect !== undefined) return parse(Buffer.from(effect));
  const fields = openEvent(authorHeaders(record.headers), record.body, LIMITS);
  if (fields.has("patch")) return fields.get("patch");
  const value = fields.has("delete") ? new Map() : fields.get("put");
  return [new Map([["op", "replace"], ["path", renderPointer([])], ["value", value]])];
}
