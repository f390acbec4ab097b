// An event in any published form (native, bare patch, CloudEvents), decoded and checked by the rules of a fold number.

import { compilePatch, sizeWithin } from "./change.mjs";
import { byCodePoint, decoded, equal, parse, refuse } from "./json.mjs";

export const HEADERS_BYTES_MAX = 32 * 1024;
export const ID_CHARS_MAX = 128;
export const TRANSACTION_MEMBERS_MAX = 1_000n;
const MEMBERSHIP = ["id", "index", "count", "settings"];
const INT64_MIN = -(2n ** 63n);
const INT64_MAX = 2n ** 63n - 1n;

const CHANGES = ["patch", "merge", "put", "delete"];
const TEXTS = ["id", "type", "actor", "correlation_id", "causation_id"];
const FIELDS = [...CHANGES, ...TEXTS, "v", "base", "on_conflict", "occurred_at", "meta"];
const LATER_FIELDS = ["all_or_nothing", "session", "principal", "txn", "reverts", "resolves"];
export const STRATEGY = /^(reject|first_write_wins|last_write_wins|merge|custom:.+)$/s;
const CLOUD_EVENT = "application/cloudevents+json";
const BARE = { "application/json-patch+json": "patch", "application/merge-patch+json": "merge" };
const INTEGER_HEADERS = ["v", "base", "reverts", "resolves"];
const JSON_HEADERS = ["meta", "all_or_nothing", "txn"];
const TEXT_HEADERS = [...TEXTS, "occurred_at", "on_conflict", "principal", "session"];

/** Return the event's fields; `headers` are the author's stored lines, as bytes. */
export function openEvent(headers, body, limits) {
  if (body.length > limits.event_bytes) refuse("event_too_large");
  if (headers.length > HEADERS_BYTES_MAX) refuse("headers_too_large");
  const ours = readHeaders(headers);
  return agree(bodyFields(ours, parse(body)), refoldFields(ours));
}

/** Return the event's id if it is valid. */
export function idOf(fields) {
  const id = fields.get("id");
  return isId(id) ? id : undefined;
}

/** Check the fields. The first broken rule, in this order, is the reason. */
export function checkEvent(fields, rules) {
  const known = [...FIELDS, ...rules.fields];
  const [unknown] = [...fields.keys()].filter((name) => !known.includes(name)).sort(byCodePoint);
  if (unknown !== undefined) refuse(LATER_FIELDS.includes(unknown) ? "not_in_this_fold" : "unknown_field");
  const [kind, ...more] = CHANGES.filter((name) => fields.has(name));
  if (kind === undefined || more.length) refuse("bad_event");
  const value = fields.get(kind);
  if (kind === "delete" && value !== true) refuse("bad_field");
  const operations = kind === "patch" ? compilePatch(value, rules.operations, rules.limits) : [];
  const bytes = kind === "put" ? sizeWithin(value, rules.limits.depth) : 0;
  return { kind, value, operations, bytes, ...checkOthers(fields), ...checkLater(fields) };
}

function checkOthers(fields) {
  const isText = (value) => typeof value === "string";
  hold(fields, "v", (value) => value === 1n);
  for (const name of TEXTS) hold(fields, name, isText);
  hold(fields, "id", () => idOf(fields) !== undefined);
  hold(fields, "base", (value) => typeof value === "bigint" && value >= 0n && value <= INT64_MAX);
  hold(fields, "on_conflict", (value) => isText(value) && STRATEGY.test(value));
  hold(fields, "occurred_at", isText);
  const occurredAt = fields.has("occurred_at") ? parseTime(fields.get("occurred_at")) : undefined;
  hold(fields, "meta", (value) => value instanceof Map);
  return { base: fields.get("base"), onConflict: fields.get("on_conflict"), occurredAt };
}

/** Fields that fold 1 does not have. */
function checkLater(fields) {
  const isPositive = (value) => typeof value === "bigint" && value >= 1n && value <= INT64_MAX;
  hold(fields, "session", isId);
  hold(fields, "all_or_nothing", (value) => typeof value === "boolean");
  for (const name of ["reverts", "resolves"]) hold(fields, name, isPositive);
  const membership = fields.has("txn") ? readMembership(fields.get("txn")) : undefined;
  return { session: fields.get("session"), isWhole: fields.get("all_or_nothing") ?? false, membership };
}

/** An event's part in a transaction. `settings` is the sequence of those that it was checked under; 0: the defaults. */
export function readMembership(value) {
  if (!(value instanceof Map) || [...value.keys()].some((name) => !MEMBERSHIP.includes(name))) refuse("bad_field");
  const [id, index, count, settings] = MEMBERSHIP.map((name) => value.get(name));
  const isInteger = (number, least, most) => typeof number === "bigint" && number >= least && number <= most;
  const isCounted = isInteger(count, 1n, TRANSACTION_MEMBERS_MAX) && isInteger(index, 0n, count - 1n);
  const isNamed = !value.has("settings") || isInteger(settings, 0n, INT64_MAX);
  return isId(id) && isCounted && isNamed ? { id, index, count, settings } : refuse("bad_field");
}

function hold(fields, name, isValid) {
  if (fields.has(name) && !isValid(fields.get(name))) refuse("bad_field");
}

const isId = (value) => typeof value === "string" && value !== "" && [...value].length <= ID_CHARS_MAX;

/** Nanoseconds since 1970, from RFC 3339 with an offset. */
function parseTime(text) {
  const found =
    /^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))$/.exec(text);
  const [, year, month, day, hour, minute, second, fraction = "", sign, hours = "0", minutes = "0"] =
    found ?? refuse("bad_time");
  // Before 1677 there is no int64 nanosecond, and JavaScript reads the year 50 as 1950.
  if (year < 1677 || hour > 23 || minute > 59 || second > 59 || hours > 23 || minutes > 59) refuse("bad_time");
  const date = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== Number(day)) refuse("bad_time");
  const offset = (Number(hours) * 60 + Number(minutes)) * (sign === "-" ? -60_000 : 60_000);
  const time = BigInt(date.getTime() - offset) * 1_000_000n + BigInt(fraction.padEnd(9, "0"));
  return INT64_MIN <= time && time <= INT64_MAX ? time : refuse("bad_time");
}

/** Return all lines except those of the broker. */
export function authorHeaders(headers) {
  const lines = headers.toString("latin1").split("\r\n");
  return Buffer.from(lines.filter((line) => !line.startsWith("Nats-")).join("\r\n"), "latin1");
}

/** `Content-Type`, `Refold-*` and `ce-*` by lower-case name; others belong to the transport. */
function readHeaders(headers) {
  const ours = new Map();
  for (const line of headers.toString("latin1").split("\r\n").filter(Boolean)) {
    const colon = line.indexOf(":");
    if (colon < 0) refuse("bad_header");
    const raw = trimmed(line.slice(0, colon)).replace(/[A-Z]/g, (letter) => letter.toLowerCase());
    if (!/^(refold-|ce-|content-type$)/.test(raw)) continue;
    const [name, value] = [raw, trimmed(line.slice(colon + 1))].map((it) => utf8(it, "latin1"));
    if (ours.has(name)) refuse("repeated_header");
    ours.set(name, value);
  }
  return ours;
}

function refoldFields(ours) {
  const fields = new Map();
  for (const [name, value] of ours) {
    if (!name.startsWith("refold-") || name === "refold-reply") continue;
    const field = /_/.test(name) ? name : name.slice(7).replaceAll("-", "_");
    if (INTEGER_HEADERS.includes(field)) fields.set(field, integer(value));
    else if (JSON_HEADERS.includes(field)) fields.set(field, parse(Buffer.from(value)));
    else fields.set(TEXT_HEADERS.includes(field) ? field : refuse("unknown_field"), value);
  }
  return fields;
}

function integer(digits) {
  const value = /^-?(0|[1-9][0-9]{0,18})$/.test(digits) ? BigInt(digits) : refuse("bad_field");
  return value >= INT64_MIN ? value : refuse("bad_field");
}

function bodyFields(ours, value) {
  const pairs = [...ours].filter(([name]) => name.startsWith("ce-"));
  const attributes = new Map(pairs.map(([name, text]) => [name.slice(3), percentDecoded(text)]));
  const media = mediaType(ours.get("content-type") ?? "");
  if (media === CLOUD_EVENT) {
    const event = agree(native(value), attributes);
    return cloudFields(event, dataMedia(event));
  }
  if (!attributes.size) return fieldsBy(media, value);
  const named = dataMedia(attributes);
  if (media && named && media !== named) refuse("contradictory");
  return cloudFields(attributes.set("data", value), media || named);
}

function cloudFields(event, media) {
  if (!event.has("data")) refuse("bad_event");
  for (const name of ["specversion", "id", "source", "type"]) attribute(event, name);
  if (event.get("specversion") !== "1.0") refuse("bad_event");
  const said = new Map([["id", `${event.get("source")}|${event.get("id")}`], ["type", event.get("type")]]);
  const fields = fieldsBy(media, event.get("data"));
  if ((event.get("time") ?? null) !== null) said.set("occurred_at", event.get("time"));
  return agree(fields, said);
}

const fieldsBy = (media, value) => (Object.hasOwn(BARE, media) ? new Map([[BARE[media], value]]) : native(value));

const native = (value) => (value instanceof Map ? value : refuse("bad_event"));

const dataMedia = (event) =>
  (event.get("datacontenttype") ?? null) === null ? "" : mediaType(attribute(event, "datacontenttype"));

function attribute(event, name) {
  const value = event.get(name);
  return typeof value === "string" && value !== "" ? value : refuse("bad_event");
}

/** Add another source's fields; a field that both have must agree. */
function agree(fields, others) {
  for (const [name, value] of others) {
    if (fields.has(name) && !equal(fields.get(name), value)) refuse("contradictory");
    if (!fields.has(name)) fields.set(name, value);
  }
  return fields;
}

const mediaType = (value) => trimmed(value.split(";")[0]).toLowerCase();

const trimmed = (value) => value.replace(/^[ \t]+|[ \t]+$/g, "");

const utf8 = (value, encoding) => decoded(Buffer.from(value, encoding), "bad_header");

/** Decode percent-encoding; any other character is literal. */
const percentDecoded = (value) =>
  value.replace(/(?:%[0-9A-Fa-f]{2})+/g, (run) => utf8(run.replaceAll("%", ""), "hex"));
