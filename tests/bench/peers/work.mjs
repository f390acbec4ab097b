// The work of `work.py` for peers in JavaScript: the same arguments, the same events, the same output.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import assert from "node:assert/strict";

const MEMBERS = 16;
const WRITERS = [1, 8, 64];
const BATCHES = [100, 1_000];
const LOADED = 100;
const STRIDE = 37;

export function readArguments() {
  const names = ["events", "documents", "loads", "seconds", "address", "home", "variant"];
  const options = Object.fromEntries(names.map((name) => [name, { type: "string" }]));
  const { values } = parseArgs({ options });
  const { events = 10_000, documents = 100, loads = 500, seconds = 8 } = values;
  const numbers = { events, documents, loads, seconds };
  return { ...values, ...Object.fromEntries(Object.entries(numbers).map(([name, value]) => [name, Number(value)])) };
}

export function change(document, version) {
  const text = createHash("sha256").update(`${document}/${version}`).digest("hex");
  const path = `/member-${String(version % MEMBERS).padStart(2, "0")}`;
  return [{ op: "add", path, value: { number: version, text: text + text.slice(0, 48) } }];
}

export function fold(state, patch) {
  for (const { path, value } of patch) state[path.slice(1)] = value;
  return state;
}

function expected(document, version) {
  const state = {};
  for (let at = Math.max(1, version - MEMBERS + 1); at <= version; at++) fold(state, change(document, at));
  return state;
}

function say(figure, value) {
  console.log(JSON.stringify({ figure, value }));
}

function rate(count, started_at) {
  return (count * 1_000) / (performance.now() - started_at);
}

export async function run(peer, work) {
  for (const size of BATCHES) {
    const documents = Array.from({ length: Math.floor(work.events / size) }, (_, number) => `b${size}-${number}`);
    await measureBatches(peer, documents, size);
    if (size === LOADED) await measureLoads(peer, documents, size, work.loads);
  }
  const total = work.events * BATCHES.length;
  const started_at = performance.now();
  await peer.rebuild();
  say("rebuild", rate(total, started_at));
  await peer.check(`b${LOADED}-7`, LOADED);
  for (const writers of WRITERS) {
    const documents = Array.from({ length: work.documents }, (_, number) => `w${writers}-${number}`);
    await measureSingles(peer, documents, Math.floor(work.events / work.documents), writers, work.seconds);
  }
  const status = readFileSync("/proc/self/status", "utf8");
  say("memory", Number(/VmHWM:\s+(\d+)/.exec(status)[1]) * 1_024);
}

async function measureSingles(peer, documents, versions, writers, seconds) {
  const waiting = documents.map((document) => [document, 0]);
  const started_at = performance.now();
  let appended = 0;
  // A document is queued again once its event is appended.
  const write = async () => {
    while (waiting.length && performance.now() - started_at < seconds * 1_000) {
      const [document, version] = waiting.shift();
      await peer.append(document, version, [change(document, version + 1)]);
      appended += 1;
      if (version + 1 < versions) waiting.push([document, version + 1]);
    }
  };
  await Promise.all(Array.from({ length: writers }, write));
  say(`append_${writers}`, rate(appended, started_at));
}

async function measureBatches(peer, documents, size) {
  const batches = documents.map((document) => [
    document,
    Array.from({ length: size }, (_, version) => change(document, version + 1)),
  ]);
  const started_at = performance.now();
  for (const [document, changes] of batches) await peer.append(document, 0, changes);
  say(`batch_${size}`, rate(documents.length * size, started_at));
  const last = documents.at(-1);
  assert.deepEqual(await peer.load(last), expected(last, size));
}

async function measureLoads(peer, documents, versions, loads) {
  for (const [name, version] of [["latest", undefined], ["middle", Math.floor(versions / 2)]]) {
    for (const document of documents) {
      assert.deepEqual(await peer.load(document, version), expected(document, version ?? versions));
    }
    const taken = [];
    const started_at = performance.now();
    for (let number = 0; number < loads; number++) {
      const started = performance.now();
      await peer.load(documents[(number * STRIDE) % documents.length], version);
      taken.push(performance.now() - started);
    }
    say(`load_${name}`, rate(loads, started_at));
    taken.sort((one, other) => one - other);
    say(`load_${name}_p50`, taken[Math.floor(loads / 2)]);
    say(`load_${name}_p99`, taken[Math.floor((loads * 99) / 100)]);
  }
}
