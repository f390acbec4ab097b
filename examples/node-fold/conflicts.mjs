// Fold 2: an event with a stale base does at the head what its author meant, by the strategy that it names. The rules
// are in schemas/conflicts.md. Where there is nothing to resolve, an event is applied as under fold 1.

import { ABSENT, applyChange } from "./apply.mjs";
import { Edit } from "./change.mjs";
import { Author } from "./identity.mjs";
import { Refused, refuse, write } from "./json.mjs";
import { Optimistic } from "./optimistic.mjs";
import { WINDOW_BYTES_MAX, WINDOW_VERSIONS_MAX } from "./recent.mjs";
import { Resolution } from "./resolution.mjs";
import { applyStale } from "./resolve.mjs";
import { DEPENDS_ON_REJECTED, View } from "./view.mjs";

/** Return the new state, its size, and the outcome's effect, conflict and status, where they are not the usual ones. */
export function changeByFold2(document, event, record, rules) {
  const { base } = event;
  if (base === undefined || base === document.version) return applyChange(document, event, rules);
  if (base > document.version) refuse("base_in_future");
  if (document.version - base > BigInt(WINDOW_VERSIONS_MAX)) refuse("base_too_old");
  const changes = document.recent.since(Number(base));
  if (changes.reduce((sum, { bytes }) => sum + bytes, 0) > WINDOW_BYTES_MAX) refuse("base_too_old");
  const isOwnStep = ({ hasSteps, session }) => hasSteps && session === event.session;
  if (!changes.some(isOfOthers(event.session)) && !changes.some(isOwnStep)) return applyChange(document, event, rules);
  const intent = intentOf(event, rules);
  const author = new Author(Number(base), event.session, record.sequence);
  try {
    checkStrategy(intent.strategy, event.session, changes);
    return resolved(document, author, event, intent, rules);
  } catch (refused) {
    if (refused instanceof Refused) Object.assign(refused, rejection(document, author, event, intent));
    throw refused;
  }
}

/** Return what a stale event asks for; what a merge patch does depends on the view. */
function intentOf({ kind, value, isWhole, onConflict }, rules) {
  // A delete counts as one write of the root too.
  const root = new Map([["op", "replace"], ["path", ""], ["value", kind === "delete" ? new Map() : value]]);
  const operations = { patch: value, merge: [] }[kind] ?? [root];
  const hasTest = operations.some((item) => item.get("op") === "test");
  const written = kind === "merge" ? undefined : operations.map(write);
  return { operations, written, isWhole: isWhole || hasTest, strategy: onConflict ?? rules.onConflict };
}

/** Tell whether a change is of others than a session. */
function isOfOthers(own) {
  return ({ isEffective, session }) => isEffective && (own === undefined || session !== own);
}

function checkStrategy(strategy, own, changes) {
  if (strategy !== "reject" && !strategy.startsWith("custom:")) return;
  if (changes.some(isOfOthers(own))) refuse(strategy === "reject" ? "conflict" : "needs_resolution");
}

function resolved(document, author, event, intent, rules) {
  const isAbsent = document.state === ABSENT;
  const isDelete = event.kind === "delete";
  if (isAbsent && isDelete) refuse("document_absent");
  const model = document.recent.caughtUp();
  const edit = isAbsent ? new Edit(new Map(), 2, rules.limits) : new Edit(document.state, document.size, rules.limits);
  model.state = () => edit.root;
  model.begin();
  // A delete is not merged with anything.
  const strategy = isDelete && intent.strategy === "merge" ? "last_write_wins" : intent.strategy;
  const version = Number(document.version) + 1;
  const resolution = new Resolution(model, edit, author, version, { strategy, limits: rules.limits });
  try {
    applyStale(resolution, operationsOf(event, intent, model, author), intent.isWhole);
    if (isAbsent && !resolution.effect.length) refuse("target_gone");
    if (!isDelete) rules.check?.(edit.root);
  } catch (refused) {
    edit.undo();
    model.undo();
    throw refused;
  }
  document.recent.resolved(author.sequence);
  const head = isDelete ? { state: ABSENT, size: 0 } : { state: edit.root, size: edit.size };
  return { ...head, ...outcomeOf(resolution, intent, event) };
}

const operationsOf = (event, intent, model, author) =>
  event.kind === "merge" ? new View(model, author).mergeOperations(event.value) : intent.operations;

function outcomeOf({ overwrote, merged, dropped, effect, steps }, { strategy, written }, { kind }) {
  const versions = (set) => [...set].sort((a, b) => a - b).map(BigInt);
  const found = { overwrote: versions(overwrote), merged: versions(merged), dropped };
  const parts = Object.entries(found).filter(([, items]) => items.length);
  const isSame = written?.join() === effect.join() && written.length === effect.length;
  const text = `[${effect.join(",")}]`;
  if (!parts.length && !steps && (isSame || kind === "merge")) return isSame ? {} : { effect: text };
  const conflict = new Map([["strategy", strategy], ...parts]);
  // A state that was put as it is, and a delete, are their own effects.
  return { status: "merged", conflict, steps, effect: isSame && kind !== "patch" ? undefined : text };
}

/** Return what is kept of a rejected event: its later events in flight may count on it. */
function rejection(document, author, event, intent) {
  const conflict = new Map([["strategy", intent.strategy]]);
  const { session, sequence } = author;
  if (session === undefined) return { conflict };
  const head = document.state;
  const model = document.recent.caughtUp();
  model.state = () => (head === ABSENT ? new Map() : head);
  model.begin();
  const stamp = model.stamp(sequence, Number(document.version), session, DEPENDS_ON_REJECTED);
  const optimistic = new Optimistic(model, author, stamp);
  const isKnownAbsent = head === ABSENT && event.kind === "delete" && model.root.view(author) === model.root.head;
  const operations = isKnownAbsent ? [] : operationsOf(event, intent, model, author);
  for (const item of operations) optimistic.follow(item);
  document.recent.resolved(sequence);
  return { conflict, steps: optimistic.count };
}
