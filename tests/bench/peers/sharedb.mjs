// ShareDB with its database in memory: one document, whose changes go to all WebSocket clients that subscribe to it.
//
// Prints its port; after a line on stdin it changes the document at a pace, and after another one prints when it began
// each change (seconds of the monotonic clock) and the processor time since the first line.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

const OVERHEAD_BYTES = 120;
const options = Object.fromEntries(["home", "bytes", "changes", "interval"].map((name) => [name, { type: "string" }]));
const { values: work } = parseArgs({ options });
const require = createRequire(pathToFileURL(`${work.home}/`));
const [ShareDB, { WebSocketServer }, JsonStream] = ["sharedb", "ws", "@teamwork/websocket-json-stream"].map(require);

const backend = new ShareDB();
const document = backend.connect().get("docs", "wide");
const done = (act) => new Promise((resolve, reject) => act((error) => (error ? reject(error) : resolve())));
await done((callback) => document.create({ m0: "" }, callback));

const server = createServer();
new WebSocketServer({ server }).on("connection", (socket) => backend.listen(new JsonStream(socket)));
server.listen({ port: 0, host: "127.0.0.1", backlog: 1024 }, () => console.log(JSON.stringify(server.address())));

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
await lines.next();
const used = process.cpuUsage();
const now = () => Number(process.hrtime.bigint()) / 1e9;
const begun = [];
const first = now() + 1;
for (let number = 0; number < Number(work.changes); number += 1) {
  await sleep(Math.max(0, (first + number * Number(work.interval) - now()) * 1000));
  const text = number.toString(16).padStart(Math.max(1, Number(work.bytes) - OVERHEAD_BYTES), "0");
  begun.push(now());
  await done((callback) => document.submitOp([{ p: ["m0"], oi: text }], callback));
}
await lines.next();
const { user, system } = process.cpuUsage(used);
console.log(JSON.stringify({ begun, cpu_seconds: (user + system) / 1e6, bytes: process.memoryUsage.rss() }));
process.exit(0);
