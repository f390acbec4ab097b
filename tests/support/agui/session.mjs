// Commands in, one JSON object a line; an answer out for each, with the warnings so far.

import { createInterface } from "node:readline";
import { perform, warnings } from "./client.mjs";

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await perform(JSON.parse(line));
  process.stdout.write(`${JSON.stringify({ ...answer, warnings })}\n`);
}

// Runs that follow would keep it alive.
process.exit();
