// Commands in, one JSON object a line; an answer out for each: {client, do, ...given} -> {..., warnings}.

import { createInterface } from "node:readline";
import { Client, warnings } from "./client.mjs";

const clients = new Map();

for await (const line of createInterface({ input: process.stdin })) {
  const { client, do: what, ...given } = JSON.parse(line);
  let answer = {};
  if (what === "open") clients.set(client, new Client(given.url, given.thread));
  else if (what === "clone") clients.set(client, clients.get(given.of).clone());
  else answer = await clients.get(client)[what](given);
  process.stdout.write(`${JSON.stringify({ ...answer, warnings })}\n`);
}
