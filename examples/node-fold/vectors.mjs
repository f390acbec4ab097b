// Checks this fold against the conformance vectors: `node examples/node-fold/vectors.mjs [schemas/vectors [FILE...]]`
//
// Prints the number of passes per file and each failure; exits with 1 if there is any.

import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { applyMerge, applyPatch, compilePatch, parsePointer, resolve } from "./change.mjs";
import { applyExtended } from "./extensions.mjs";
import { ABSENT, chainLink, chainSeed, fold, genesisState, newDocument, partitionOf, place, rulesOf } from "./fold.mjs";
import { Refused, copy, parse, size, write } from "./json.mjs";
import { Log } from "./log.mjs";
import { documentOf } from "./names.mjs";
import { regex } from "./regex.mjs";
import { compileSchema, violation } from "./schema.mjs";

const [folder = fileURLToPath(new URL("../../schemas/vectors", import.meta.url)), ...files] = process.argv.slice(2);

/** Checks by file. Each returns its result in canonical text; a row has the expected one. */
const ROWS = {
  "canonical.json": (row) => write(parse(bytesOf(row, "text"))),
  "rfc6901.json": (row) => {
    const tokens = parsePointer(row.get("pointer"));
    return write([tokens, resolve(row.get("doc"), tokens)]);
  },
  "rfc6902.json": (row) => {
    const patch = row.has("patch_text") ? parse(bytesOf(row, "patch_text")) : row.get("patch");
    return changed(row, (doc, bytes) => applyPatch(doc, compilePatch(patch), bytes));
  },
  "rfc7396.json": (row) => changed(row, (doc, bytes) => applyMerge(doc, row.get("patch"), bytes)),
  "fold2/extensions.json": (row) => changed(row, (doc, bytes) => extended(doc, row, bytes)),
  "fold2/names.json": (row) => write(documentOf(row.get("token"), 2n) ?? null),
  "fold2/regex.json": (row) => {
    const found = regex(row.get("pattern"));
    return write(["matches", "misses"].map((name) => row.get(name).filter((text) => found.test(text))));
  },
  "fold2/schema.json": (row) => violations(row),
  "fold2/transactions.json": (row) => write(transactionOutcomes(row)),
};

/** Fold a log that begins under fold 2 and has these records next. */
function transactionOutcomes(row) {
  const genesis = write(new Map([["put", genesisState("log-1", rulesOf(2n))]]));
  const parts = (each) => [each.get("time"), each.get("subject"), each.get("headers"), write(each.get("event"))];
  const said = [[0n, "log.50._refold.log", "", genesis], ...row.get("records").map(parts)];
  const records = said.map(([time, ...texts], at) => {
    const [subject, headers, body] = texts.map((text) => Buffer.from(text));
    return { sequence: at + 1, time, subject, headers, body };
  });
  const log = new Log(records);
  log.fold();
  return log.outcomes.slice(1).map(({ status, version, reason, occurredAt }) => {
    const recorded_at = version === undefined ? undefined : occurredAt; // None of what makes no document.
    const found = Object.entries({ status, version, reason, recorded_at });
    return new Map(found.filter(([, value]) => value !== undefined));
  });
}

/** Compile a schema and check states; a refusal must name the vector's pointer. */
function violations(row) {
  try {
    const schema = compileSchema(row.get("schema"));
    const found = (state) => Object.entries(violation(schema, state) ?? {});
    const broken = row.get("invalid").map((each) => new Map([["state", each.get("state")], ...found(each.get("state"))]));
    return write([row.get("valid").filter((state) => !found(state).length), broken]);
  } catch (refused) {
    return refused.pointer === row.get("pointer") ? refused.reason : `at ${refused.pointer}: ${refused.stack}`;
  }
}

/** Apply a patch with extension operations; its effective patch must be the vector's, and apply as the patch does. */
function extended(doc, row, bytes) {
  const again = copy(doc);
  const edit = applyExtended(doc, copy(row.get("patch")), bytes);
  const effect = edit.effect ?? write(row.get("patch"));
  if (row.has("effect") && effect !== write(row.get("effect"))) return { root: effect, size: size(effect) };
  return applyExtended(again, parse(Buffer.from(effect)), bytes);
}

function expectedOf(row) {
  if (row.has("error")) return row.get("error");
  if (row.has("canonical")) return row.get("canonical");
  if (row.has("document")) return write(row.get("document"));
  if (row.has("matches")) return write([row.get("matches"), []]);
  if (row.has("valid")) return write([row.get("valid"), row.get("invalid")]);
  return write(row.has("tokens") ? [row.get("tokens"), row.get("expected")] : row.get("expected"));
}

/** Change the row's document. If it throws, the document must be unchanged; otherwise its size must be right. */
function changed(row, apply) {
  const doc = row.get("doc");
  const before = write(doc);
  try {
    const edit = apply(doc, size(doc));
    return edit.size === size(edit.root) ? write(edit.root) : `counted ${edit.size} bytes`;
  } catch (refused) {
    if (write(doc) !== before) return "the document was left changed";
    throw refused;
  }
}

function* rowVectors(rows, found) {
  for (const row of rows) {
    const [said, expected] = [attempt(() => found(row)), expectedOf(row)];
    yield [row.get("comment"), said === expected ? "" : `${shown(said)} instead of ${shown(expected)}`];
  }
}

function* foldVectors(file) {
  for (const [namespace, document, partition] of file.get("partitions")) {
    const found = partitionOf(Buffer.from(namespace + document));
    yield [`partition of ${namespace}.${document}`, BigInt(found) === partition ? "" : `${found}`];
  }
  for (const row of file.get("places")) {
    const [namespace, document] = ["namespace", "document"].map((name) => writtenOut(row.get(name)));
    const expected = { partition: Number(row.get("partition")), reason: row.get("reason"), namespace, document };
    const found = shownPlace(place(bytesOf(row, "subject")));
    yield [`the place of ${row.get("subject")}`, found === shownPlace(expected) ? "" : found];
  }
  yield ["the chain", attempt(() => chainProblem(file.get("chain")))];
  for (const history of file.get("cases")) {
    yield [history.get("comment"), attempt(() => historyProblem(history))];
  }
}

function chainProblem(vector) {
  let link = chainSeed(vector.get("log_id"), vector.get("partition"));
  if (link.toString("hex") !== vector.get("seed")) return "another seed";
  for (const row of vector.get("records")) {
    link = chainLink(link, recordOf(row, Buffer.from(row.get("subject"))));
    if (link.toString("hex") !== row.get("chain")) return `another chain at ${row.get("sequence")}`;
  }
  return "";
}

/** Fold one document's whole history; return where and how it first differs. */
function historyProblem(history) {
  const document = newDocument(history.get("namespace"), history.get("document"));
  let recordedAt = 0n;
  for (const row of history.get("events")) {
    const expected = row.get("expected");
    const [state, effect] = ["state", "effect"].map((name) => writtenOut(expected.get(name) ?? null));
    const wanted = shownOutcome({ ...Object.fromEntries(expected), state, effect });
    for (let number = 0; number < (row.get("times") ?? 1); number += 1) {
      const record = recordOf(row, Buffer.alloc(0), number);
      recordedAt = record.time > recordedAt ? record.time : recordedAt;
      const outcome = fold(document, record, recordedAt, rulesOf(1n));
      const now = document.state === ABSENT ? null : write(document.state);
      const said = { ...outcome, recorded_at: `${recordedAt}`, occurred_at: `${outcome.occurredAt}`, state: now };
      for (const time of ["recorded_at", "occurred_at"]) if (!expected.has(time)) delete said[time];
      const found = shownOutcome(said);
      if (found !== wanted) return `${record.sequence}: ${shown(found)} instead of ${shown(wanted)}`;
      if (document.size !== (now === null ? 0 : Buffer.byteLength(now))) return `${record.sequence}: its size`;
    }
  }
  return "";
}

function* conflictVectors(cases) {
  for (const row of cases) yield [row.get("comment"), attempt(() => conflictProblem(row))];
}

/** Fold a document's events under fold 2; return where an outcome first differs. */
function conflictProblem(row) {
  const document = newDocument("n", "d");
  for (const [at, event] of row.get("events").entries()) {
    const body = Buffer.from(write(event));
    const record = { sequence: at + 1, time: 0n, subject: Buffer.alloc(0), headers: Buffer.alloc(0), body };
    const { status, version, reason, effect, conflict } = fold(document, record, 0n, rulesOf(2n));
    const said = new Map([["status", status], ["version", version], ["state", document.state ?? null]]);
    if (reason !== undefined) said.set("reason", reason);
    if (effect !== undefined) said.set("effect", parse(Buffer.from(effect)));
    for (const [name, found] of conflict ?? []) if (name !== "strategy") said.set(name, found);
    const [found, wanted] = [write(said), write(row.get("expected")[at])];
    if (found !== wanted) return `event ${at}: ${shown(found)} instead of ${shown(wanted)}`;
  }
  return "";
}

/** The parts of an outcome that a vector may have, in one order; a part that it lacks must be absent. */
function shownOutcome({ status, version, reason, first, effect, recorded_at, occurred_at, state }) {
  const plain = first instanceof Map ? Object.fromEntries(first) : first;
  const known = plain && [`${plain.sequence}`, plain.status, `${plain.version}`];
  return JSON.stringify([status, `${version}`, reason, known, effect ?? null, recorded_at, occurred_at, state]);
}

const shownPlace = ({ partition, reason, namespace, document }) =>
  JSON.stringify([partition, reason, namespace, document]);

function recordOf(row, subject, number = 0) {
  const lines = (row.get("headers") ?? []).map(([name, value]) => `${name}: ${writtenOut(value)}\r\n`);
  const headers = Buffer.from(row.get("headers_hex") ?? lines.join(""), row.has("headers_hex") ? "hex" : "utf8");
  const written = row.has("hex") ? "" : writtenOut(row.get("body")).replaceAll("#", number + 1);
  const body = row.has("hex") ? bytesOf(row) : Buffer.from(written);
  return { sequence: Number(row.get("sequence")) + number, time: BigInt(row.get("time")), subject, headers, body };
}

/** A long text is a list of [text, how many times, a mark for the number from 1, as long as the mark]. */
function writtenOut(text) {
  if (!Array.isArray(text)) return text;
  const repeated = ([part, times, mark]) => {
    if (mark === undefined) return part.repeat(Number(times));
    const number = (at) => String(at + 1).padStart(mark.length, "0");
    return Array.from({ length: Number(times) }, (_, at) => part.replaceAll(mark, number(at))).join("");
  };
  return text.map(repeated).join("");
}

const bytesOf = (row, name) =>
  row.has("hex") ? Buffer.from(row.get("hex"), "hex") : Buffer.from(writtenOut(row.get(name)));

const read = (name) => parse(readFileSync(`${folder}/${name}`));

const shown = (text) => (text.length > 300 ? `${text.slice(0, 150)} … ${text.slice(-150)}` : text);

function attempt(act) {
  try {
    return act();
  } catch (error) {
    return error instanceof Refused ? error.reason : error.stack;
  }
}

let [passed, all] = [0, 0];
function tell(name, vectorsOf) {
  if (files.length && !files.includes(name)) return;
  const found = [...vectorsOf(read(name))];
  const wrong = found.filter(([, problem]) => problem !== "");
  for (const [comment, problem] of wrong) console.log(`${name}: ${comment}: ${problem}`);
  console.log(`${name}: ${found.length - wrong.length} of ${found.length}`);
  passed += found.length - wrong.length;
  all += found.length;
}

for (const [name, found] of Object.entries(ROWS)) tell(name, (rows) => rowVectors(rows, found));
tell("fold.json", foldVectors);
for (const name of readdirSync(`${folder}/conflicts`).sort()) tell(`conflicts/${name}`, conflictVectors);
console.log(`${passed} of ${all} vectors`);
process.exitCode = passed === all ? 0 : 1;
