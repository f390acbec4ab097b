// Folds whole logs from standard input: `node examples/node-fold/log.mjs < records.jsonl`
//
// A line is one record, from sequence 1 on: {"sequence", "time" (nanoseconds, as digits), "subject", "headers", "body"
// (bytes in base64)}. An empty line, or the end, ends a log and prints the result as one line: each event's
// outcome, each document's head with its state in canonical text, each partition's hash chain.

import { createInterface } from "node:readline";

import { ABSENT, chainLink, chainSeed, fold, genesisRules, newDocument, place, rulesOf } from "./fold.mjs";
import { write } from "./json.mjs";

class Log {
  documents = new Map();
  chains = new Map();
  outcomes = [];
  foldNumber = 1n;
  recordedAt = -(2n ** 63n);
  sequence = 0;

  take(record) {
    rulesOf(this.foldNumber);
    if (record.sequence !== this.sequence + 1) throw new Error(`a hole before ${record.sequence}`);
    this.sequence = record.sequence;
    if (record.time > this.recordedAt) this.recordedAt = record.time;
    const where = place(record.subject);
    const outcome = where.reason ? { status: "rejected", reason: where.reason } : this.#fold(record, where);
    this.outcomes.push({ occurredAt: this.recordedAt, ...outcome });
    const before = this.chains.get(where.partition) ?? chainSeed(this.#logId(), where.partition);
    this.chains.set(where.partition, chainLink(before, record));
  }

  result() {
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
    return { documents: Object.fromEntries(documents), outcomes, chains: Object.fromEntries(chains) };
  }

  #fold(record, { namespace, document }) {
    const key = `${namespace}/${document}`;
    const held = this.documents.get(key) ?? newDocument(namespace, document);
    this.documents.set(key, held);
    const isGenesis = record.sequence === 1 && key === "_refold/log";
    const rules = isGenesis ? genesisRules(record) : rulesOf(this.foldNumber);
    const outcome = fold(held, record, this.recordedAt, rules);
    if (namespace === "_refold" && outcome.status === "applied") this.foldNumber = held.state.get("fold");
    return outcome;
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

let log = new Log();
for await (const line of createInterface({ input: process.stdin })) {
  if (line) {
    log.take(recordOf(line));
    continue;
  }
  process.stdout.write(`${JSON.stringify(log.result())}\n`);
  log = new Log();
}
if (log.sequence) process.stdout.write(`${JSON.stringify(log.result())}\n`);
