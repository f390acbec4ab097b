// A document as the shared state of AG-UI agents: one agent follows it, a clone of it sends each edit.
//
// Usage: npm install && node trip.mjs [URL]

import { HttpAgent } from "@ag-ui/client";

const gateway = process.argv[2] ?? "http://127.0.0.1:8080";
const trip = `trip-${Date.now()}`;

// Each state carries its version as `_version`: that is the base of the edits made from it.
const follower = new HttpAgent({ url: `${gateway}/agui/acme/${trip}?stamp=_version&interval=0` });
const waiting = [];

function show(state) {
  console.log(JSON.stringify(state));
  for (const { version, resolve } of waiting) if (version <= state._version) resolve();
}

async function until(version) {
  if (follower.state._version >= version) return;
  await new Promise((resolve) => waiting.push({ version, resolve }));
}

// While a run streams, the client overwrites what is written to its agent's state: so another agent sends the edit.
async function edit(change, editor = follower.clone()) {
  change(editor.state);
  const { result } = await editor.runAgent({}, { onCustomEvent: ({ event }) => console.log(event.name) });
  await until(result.version);
}

const following = follower.runAgent(
  { forwardedProps: { refold: { follow: true } } },
  { onStateChanged: ({ state }) => show(state) },
);
await until(0);

await edit((state) => {
  state.city = "Rome";
  state.days = ["arrive", "museum"];
});

// Someone else, without AG-UI, adds a day before the others, while an edit of the last one is on its way.
const late = follower.clone();
await fetch(`${gateway}/v1/acme/${trip}`, {
  method: "PATCH",
  headers: { "Content-Type": "application/json-patch+json" },
  body: JSON.stringify([{ op: "add", path: "/days/0", value: "pack" }]),
});
await edit((state) => (state.days[1] = "beach"), late);

follower.abortRun();
await following;
