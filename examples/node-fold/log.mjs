// Folds whole logs from standard input: `node examples/node-fold/log.mjs < records.jsonl`
//
// A line is one record, from sequence 1 on: {"sequence", "time" (nanoseconds, as digits), "subject", "headers", "body"
// (bytes in base64)}. An empty line, or the end, ends a log and prints the result as one line: each event's
// outcome, each document's head with its state in canonical text, each partition's hash chain. An outcome is [status,
// version, reason, the first event's sequence, occurred_at, effect]; what came of conflicts is listed by sequence.

import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { ABSENT, chainLink, chainSeed, fold, genesisRules, newDocument, place, rulesOf } from "./fold.mjs";
import { write } from "./json.mjs";
import { SETTINGS_PREFIX, SettingsInForce, readSettings } from "./settings.mjs";
import { transactionAt } from "./transactions.mjs";

/** A whole log; `outcomes` has what came of its records. */
export class Log {
  documents = new Map();
  chains = new Map();
  outcomes = [];
  settings = new SettingsInForce();
  foldNumber = 1n;
  recordedAt = -(2n ** 63n);
  transaction = { last: 0 };

  constructor(records) {
    this.records = records;
  }

  /** Fold all records and return the result. */
  fold() {
    for (const [at, record] of this.records.entries()) this.#take(record, at);
    return this.#result();
  }

  #take(record, at) {
    rulesOf(this.foldNumber);
    if (record.sequence !== at + 1) throw new Error(`a hole before ${record.sequence}`);
    if (record.time > this.recordedAt) this.recordedAt = record.time;
    const where = place(record.subject, this.foldNumber);
    const outcome = where.reason ? { status: "rejected", reason: where.reason } : this.#fold(record, where, at);
    this.outcomes.push({ occurredAt: this.recordedAt, ...outcome });
    const before = this.chains.get(where.partition) ?? chainSeed(this.#logId(), where.partition);
    this.chains.set(where.partition, chainLink(before, record));
  }

  #result() {
    const documents = [...this.documents.values()].map((it) => [
      `${it.namespace}/${it.document}`,
      { version: `${it.version}`, last_sequence: it.lastSequence, state: stateOf(it) },
    ]);
    const outcomes = this.outcomes.map(({ status, version = 0n, reason = "", first, effect = null, occurredAt }) => [
      status,
      `${version}`,
      reason,
      first ? first.sequence : 0,
      `${occurredAt}`,
      effect,
    ]);
    const chains = [...this.chains].map(([partition, chain]) => [partition, chain.toString("hex")]);
    const conflicts = this.outcomes.flatMap(({ conflict }, at) => (conflict ? [[at + 1, write(conflict)]] : []));
    const [heads, links, resolved] = [documents, chains, conflicts].map(Object.fromEntries);
    return { documents: heads, outcomes, chains: links, conflicts: resolved };
  }

  #fold(record, { namespace, document }, at) {
    const key = `${namespace}/${document}`;
    const held = this.documents.get(key) ?? newDocument(namespace, document);
    this.documents.set(key, held);
    const isGenesis = record.sequence === 1 && key === "_refold/log";
    const ruled = isGenesis ? genesisRules(record) : this.settings.rules(namespace, rulesOf(this.foldNumber));
    const { isWhole, settings } = this.#membership(record, at, ruled);
    const rulesAt = () => this.settings.rulesAt(namespace, rulesOf(this.foldNumber), settings);
    const checked = settings === undefined ? ruled : rulesAt();
    const outcome = fold(held, record, this.recordedAt, checked ?? ruled, { isWhole, isKnown: checked !== undefined });
    const isEffective = outcome.status === "applied" || outcome.status === "merged";
    if (namespace === "_refold" && isEffective) this.#follow(record.sequence, held);
    return outcome;
  }

  /** Find out whether a record is a member of a transaction; members count as recorded at the last one's time. */
  #membership(record, at, { fields, ...rules }) {
    const routeOf = (subject) => place(subject, this.foldNumber);
    if (record.sequence > this.transaction.last) {
      const found = fields.includes("txn") ? transactionAt(this.records, at, rules, routeOf) : undefined;
      this.transaction = found ?? { last: 0 };
    }
    const { first, last, time, members } = this.transaction;
    if (record.sequence > last) return { isWhole: false };
    if (time > this.recordedAt) this.recordedAt = time;
    return { isWhole: true, settings: members[record.sequence - first].settings };
  }

  /** Put in force what an effective system event says: settings, or the fold number. */
  #follow(sequence, { document, state }) {
    if (!document.startsWith(SETTINGS_PREFIX)) this.foldNumber = state.get("fold");
    else this.settings.set(document.slice(SETTINGS_PREFIX.length), sequence, readSettings(document, state));
  }

  #logId() {
    return this.documents.get("_refold/log")?.state?.get("log_id") ?? raise("the log has no genesis");
  }
}

const stateOf = (document) => (document.state === ABSENT ? null : write(document.state));

function raise(message) {
  throw new Error(message);
}

function recordOf(line) {
  const { sequence, time, ...parts } = JSON.parse(line);
  const [subject, headers, body] = ["subject", "headers", "body"].map((name) => Buffer.from(parts[name], "base64"));
  return { sequence, time: BigInt(time), subject, headers, body };
}

function print(records) {
  if (records.length) process.stdout.write(`${JSON.stringify(new Log(records).fold())}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  let records = [];
  for await (const line of createInterface({ input: process.stdin })) {
    if (line) {
      records.push(recordOf(line));
      continue;
    }
    print(records);
    records = [];
  }
  print(records);
}
