// An author from Node, by the package `nats`: node concurrent_author.mjs SERVER FOLD NAMESPACE NAME EVENTS DOCUMENT...
//
// It follows the documents' changes, and publishes events by what it has of them. It prints "ready" when it follows, the
// outcomes when all have come, and, for the versions that it then reads from its input, its documents.

import { createInterface } from "node:readline";

import { connect, createInbox, headers } from "nats";

const [servers, fold, namespace, name, events, ...documents] = process.argv.slice(2);
const { applyExtended } = await import(`${fold}/extensions.mjs`);
const { parse, size, write } = await import(`${fold}/json.mjs`);

const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const client = await connect({ servers });
const replicas = new Map(documents.map((document) => [document, { version: 0n, state: new Map(), later: new Map() }]));
const outcomes = [];
const waiting = new Set();
let seed = 1;

follow(client.subscribe(`change.${namespace}.*`), take);
const inbox = createInbox();
follow(client.subscribe(inbox), (body) => outcomes.push(JSON.parse(body.toString())));
await client.flush();
console.log("ready");
await until(() => [...replicas.values()].every(({ version }) => version > 0n));
const reply = headers();
reply.set("Refold-Reply", inbox);
for (let number = 0; number < Number(events); number += 1) {
  const document = choice(documents);
  const event = JSON.stringify(eventOf(replicas.get(document), `${name}-${number}`));
  client.publish(`state.${namespace}.${document}`, event, { headers: reply });
  // Some are in flight together.
  if (number % 3 === 2) await until(() => outcomes.length > number);
}
await until(() => outcomes.length === Number(events));
console.log(JSON.stringify(outcomes));
const wanted = new Map(Object.entries(JSON.parse((await input.next()).value)));
await until(() => [...wanted].every(([document, version]) => replicas.get(document).version >= BigInt(version)));
const found = [...replicas].map(([document, { version, state }]) => [document, [Number(version), write(state)]]);
console.log(JSON.stringify(Object.fromEntries(found)));
await client.close();
process.exit(0);

async function follow(subscription, act) {
  for await (const message of subscription) {
    act(Buffer.from(message.data));
    for (const check of waiting) check();
  }
}

function until(isDone) {
  return new Promise((resolve) => {
    const check = () => {
      if (!isDone()) return;
      waiting.delete(check);
      resolve();
    };
    waiting.add(check);
    check();
  });
}

/** Apply changes in the order of their versions. */
function take(body) {
  const change = parse(body);
  if (!change.has("patch")) return;
  const replica = replicas.get(change.get("document"));
  replica.later.set(change.get("version"), change.get("patch"));
  for (let patch; (patch = replica.later.get(replica.version + 1n)); replica.version += 1n) {
    replica.state = applyExtended(replica.state, patch, size(replica.state)).root;
  }
}

function eventOf({ state, version }, value) {
  const [index, position] = [chance(Math.max(1, state.get("l").length)), chance([...state.get("t")].length + 1)];
  const shared = { ...Object.fromEntries(state.get("o")), shared: value };
  const patch = choice([
    [{ op: "inc", path: "/n", inc: 1 }],
    [{ op: "add", path: `/l/${index}`, value }],
    [{ op: "replace", path: `/l/${index}`, value }, { op: "inc", path: "/n", inc: 1 }],
    [{ op: "move", from: `/l/${index}`, path: "/l/-" }, { op: "add", path: `/o/${name}`, value }],
    [{ op: "remove", path: `/l/${index}` }, { op: "add", path: "/l/0", value }],
    [{ op: "str_ins", path: "/t", pos: position, str: "é𝄞" }],
    [{ op: "str_del", path: "/t", pos: position, len: 1 }],
    [{ op: "replace", path: "/o", value: shared }],
  ]);
  const strategy = choice(["last_write_wins", "first_write_wins", "merge", "reject"]);
  return { patch, base: Number(version), session: name, on_conflict: strategy };
}

/** Pseudo-random, the same in each run. */
function chance(bound) {
  seed = (seed * 48_271) % 2_147_483_647;
  return seed % bound;
}

function choice(items) {
  return items[chance(items.length)];
}
