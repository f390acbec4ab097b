// The same in a page: it asks its server for commands one by one, and posts their answers.

import { perform, warnings } from "./client.mjs";

let answer = {};
for (;;) {
  const response = await fetch("/next", { method: "POST", body: JSON.stringify({ ...answer, warnings }) });
  if (response.status !== 200) break;
  answer = await perform(await response.json());
}
