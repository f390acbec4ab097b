// The fold: (document, event) -> (document, outcome), by the rules that a number names; and how records are routed to
// partitions and chained.

import { createHash } from "node:crypto";

import { ABSENT, applyChange } from "./apply.mjs";
import { LIMITS } from "./change.mjs";
import { changeByFold2 } from "./conflicts.mjs";
import { HEADERS_BYTES_MAX, ID_CHARS_MAX, authorHeaders, checkEvent, idOf, openEvent } from "./event.mjs";
import { EXTENSIONS } from "./extensions.mjs";
import { Refused, TEXT_DEPTH_MAX, identical, parse, refuse, write } from "./json.mjs";
import { NAME, NAME_CHARS_MAX, documentOf } from "./names.mjs";
import { Recent, WINDOW_BYTES_MAX, WINDOW_VERSIONS_MAX } from "./recent.mjs";
import { SETTINGS_PREFIX, readSettings } from "./settings.mjs";

export { ABSENT } from "./apply.mjs";

const [PARTITIONS, FOLD_MAX] = [64, 2n ** 31n - 1n];
const [ID_WINDOW_IDS, ID_WINDOW_EVENTS] = [1_000, 10_000];
const OCCURRED_AHEAD_NANOSECONDS = 300_000_000_000n;

/** Every fold number that this program knows, with its rules. A number's rules never change once they are released. */
const RULES = new Map([
  [1n, { number: 1n, limits: limitsOfFold1(), operations: {}, fields: [], change: changeByFold1 }],
  [
    2n,
    {
      number: 2n,
      limits: { ...limitsOfFold1(), window_versions: WINDOW_VERSIONS_MAX, window_bytes: WINDOW_BYTES_MAX },
      operations: EXTENSIONS,
      fields: ["session", "all_or_nothing", "reverts", "resolves", "txn"],
      change: changeByFold2,
      onConflict: "last_write_wins",
    },
  ],
]);

/** Return the rules that a number names. A program that does not know the number stops with an error that names it. */
export function rulesOf(number) {
  const known = [...RULES.keys()].join(", ");
  return RULES.get(number) ?? raise(`the log asks for fold ${number}; this program knows ${known}`);
}

/** The rules for the event at sequence 1: a genesis is folded by those of its own number. */
export function genesisRules({ headers, body }) {
  try {
    const state = openEvent(authorHeaders(headers), body, LIMITS).get("put");
    const number = state instanceof Map ? state.get("fold") : undefined;
    return rulesOf(typeof number === "bigint" && number >= 1n && number <= FOLD_MAX ? number : 1n);
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    return rulesOf(1n);
  }
}

function raise(message) {
  throw new Error(message);
}

export function newDocument(namespace, document) {
  const head = { state: ABSENT, size: 0, version: 0n, events: 0, lastSequence: 0 };
  return { namespace, document, ...head, ids: new Map(), recent: new Recent() };
}

/**
 * Fold one record into its document, in place. `recordedAt` is the broker's time made monotonic over the log. Of a
 * member of a transaction, `isWhole` says that the log has all members, `isKnown` that its settings are kept.
 */
export function fold(document, record, recordedAt, rules, { isWhole = false, isKnown = true } = {}) {
  document.events += 1;
  document.lastSequence = record.sequence;
  let fields;
  const outcome = attempted(document, recordedAt, () => {
    fields = openEvent(authorHeaders(record.headers), record.body, rules.limits);
    const id = idOf(fields);
    const act = () => decided(document, fields, record, recordedAt, rules, { isWhole, isKnown });
    const decide = () => attempted(document, recordedAt, act);
    return id === undefined ? decide() : decidedOnce(document, fields, id, record.sequence, recordedAt, decide);
  });
  document.recent.append(record, outcome, fields?.get("session"));
  return outcome;
}

function attempted(document, recordedAt, act) {
  try {
    return act();
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    const { reason, conflict, steps } = refused;
    return { status: "rejected", version: document.version, reason, occurredAt: recordedAt, conflict, steps };
  }
}

/** A retry changes nothing; another event with a known id is rejected. Neither enters the window. */
function decidedOnce(document, fields, id, sequence, recordedAt, decide) {
  const content = contentOf(fields);
  const known = document.ids.get(id);
  if (known && known.ordinal >= document.events - ID_WINDOW_EVENTS) {
    if (known.content !== content) refuse("id_reused");
    return { status: "duplicate", version: known.first.version, first: known.first, occurredAt: recordedAt };
  }
  const ordinal = document.events;
  const outcome = decide();
  document.ids.delete(id);
  document.ids.set(id, { ordinal, content, first: { sequence, status: outcome.status, version: outcome.version } });
  if (document.ids.size > ID_WINDOW_IDS) document.ids.delete(document.ids.keys().next().value);
  return outcome;
}

function contentOf(fields) {
  const content = new Map(fields);
  content.delete("id");
  if (content.get("v") === 1n) content.delete("v");
  return sha256(Buffer.from(write(content))).toString("hex");
}

function decided(document, fields, record, recordedAt, rules, member) {
  const event = checkEvent(fields, rules);
  if (event.membership) checkMember(document, event, member);
  const occurredAt = event.occurredAt ?? recordedAt;
  if (occurredAt > recordedAt + OCCURRED_AHEAD_NANOSECONDS) refuse("occurred_in_future");
  if (document.namespace === "_refold") checkSystemEvent(document.document, event, record.sequence, rules);
  const { state, size, status = "applied", ...said } = rules.change(document, event, record, rules);
  Object.assign(document, { state, size, version: document.version + 1n });
  return { status, version: document.version, occurredAt, ...said };
}

/** A member of a transaction is not resolved: its base is the document's version. */
function checkMember({ version }, { base }, { isWhole, isKnown }) {
  if (!isWhole) refuse("bad_transaction");
  if (!isKnown) refuse("settings_too_old");
  if (base !== undefined && base !== version) refuse("conflict");
}

/** Under fold 1, `reject` is the only strategy. */
function changeByFold1(document, event, record, rules) {
  const [{ version }, { base, onConflict }] = [document, event];
  if (base !== undefined && base > version) refuse("base_in_future");
  const isStale = base !== undefined && base < version;
  if (isStale) refuse(onConflict === undefined || onConflict === "reject" ? "conflict" : "strategy_unavailable");
  return applyChange(document, event, rules);
}

function checkSystemEvent(document, event, sequence, rules) {
  if (event.kind !== "put") refuse("bad_system_event");
  if (document.startsWith(SETTINGS_PREFIX) && rules.number > 1n) {
    readSettings(document, event.value);
    return;
  }
  const isLog = document === "log" && isGenesis(event.value, sequence, rules);
  const isFold = document === "fold" && isFoldNumber(event.value, rules.number);
  if (!isLog && !isFold) refuse("bad_system_event");
}

function isGenesis(state, sequence, rules) {
  const logId = state instanceof Map ? state.get("log_id") : "";
  if (sequence !== 1 || typeof logId !== "string" || logId === "") return false;
  return identical(state, genesisState(logId, rules));
}

/** The state that begins a log. */
export function genesisState(logId, { number, limits }) {
  const state = { log_id: logId, partitions: PARTITIONS, fold: Number(number), limits };
  return parse(Buffer.from(JSON.stringify(state)));
}

function limitsOfFold1() {
  return {
    ...LIMITS,
    headers_bytes: HEADERS_BYTES_MAX,
    text_depth: TEXT_DEPTH_MAX,
    name_chars: NAME_CHARS_MAX,
    id_chars: ID_CHARS_MAX,
    id_window_ids: ID_WINDOW_IDS,
    id_window_events: ID_WINDOW_EVENTS,
    occurred_ahead_nanoseconds: Number(OCCURRED_AHEAD_NANOSECONDS),
  };
}

function isFoldNumber(state, foldNumber) {
  const number = state instanceof Map && state.size === 1 ? state.get("fold") : undefined;
  return typeof number === "bigint" && foldNumber < number && number <= FOLD_MAX;
}

/** Return where a record belongs, by its subject's last two tokens; invalid names are unroutable. */
export function place(subject, number = 1n) {
  const tokens = subject.toString("latin1").split(".");
  const token = tokens.pop();
  const namespace = tokens.pop() ?? "";
  const partition = partitionOf(Buffer.from(namespace + token, "latin1"));
  const document = documentOf(token, number);
  if (!NAME.test(namespace) || document === undefined) return { partition, reason: "bad_name" };
  if (namespace[0] === "_" && namespace !== "_refold") return { partition, reason: "reserved_namespace" };
  return { partition, namespace, document };
}

/** FNV-1a-32 over both names' bytes. */
export function partitionOf(names) {
  const hashed = names.reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193), 0x811c9dc5);
  return (hashed >>> 0) % PARTITIONS;
}

export function chainSeed(logId, partition) {
  const name = Buffer.from(logId);
  return sha256(uint32(name.length), name, int64(partition));
}

export function chainLink(previous, { sequence, time, subject, headers, body }) {
  const parts = [subject, authorHeaders(headers), body];
  return sha256(previous, int64(sequence), int64(time), ...parts.flatMap((part) => [uint32(part.length), part]));
}

function sha256(...parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest();
}

function uint32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function int64(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(BigInt(value));
  return bytes;
}
