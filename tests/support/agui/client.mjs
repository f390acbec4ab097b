// The official AG-UI client, unmodified, and what a test asks of it. Runs in Node and in a page.

import { HttpAgent } from "@ag-ui/client";

// What the client warns of: a delta that it could not apply, a member that it left out.
export const warnings = [];
console.warn = (...told) => {
  warnings.push(told.join(" "));
  for (const client of clients.values()) client.warned();
};

const clients = new Map();

class Client {
  #agent;
  #version = -1;
  #folded = { version: -1 };
  #waiting = [];

  constructor(url, threadId) {
    this.#agent = new HttpAgent({ url, threadId });
  }

  // An agent of its own with the same thread and state.
  clone() {
    const clone = new Client("", "");
    clone.#agent = this.#agent.clone();
    return clone;
  }

  // One exchange, with this state where one is given. An error of the run is a part of the answer.
  async run({ state, refold, runId, url }) {
    if (state !== undefined) this.#agent.state = state;
    if (url !== undefined) this.#agent.url = url;
    const custom = [];
    const subscriber = { onCustomEvent: ({ event }) => void custom.push({ name: event.name, value: event.value }) };
    try {
      const { result } = await this.#agent.runAgent({ runId, forwardedProps: { refold } }, subscriber);
      return { state: this.#agent.state, result, custom };
    } catch (error) {
      return { state: this.#agent.state, error: error.message, status: error.status, custom };
    }
  }

  // Start a run that follows, and go on while it does. `until` tells how far it is.
  follow({ refold }) {
    const note = ({ event }) => void (this.#version = event.metadata.refold.version);
    this.ended = this.#agent
      .runAgent(
        { forwardedProps: { refold: { follow: true, ...refold } } },
        {
          onStateSnapshotEvent: note,
          onStateDeltaEvent: note,
          onStateChanged: ({ state }) => this.#reach({ version: this.#version, state }),
        },
      )
      .then(({ result }) => ({ result }), (error) => ({ error: error.message, status: error.status }));
    return {};
  }

  // What was folded, once it is at a version or past it.
  until({ version }) {
    return new Promise((resolve) => {
      this.#waiting.push({ version, resolve });
      this.#reach(this.#folded);
    });
  }

  // It has said that it did not fold what came.
  warned() {
    this.#reach({ version: this.#version, state: this.#agent.state });
  }

  // The end of the run that follows: where it ends by itself, or is aborted.
  async end({ abort }) {
    if (abort) this.#agent.abortRun();
    return { ...(await this.ended), state: this.#agent.state };
  }

  #reach(folded) {
    this.#folded = folded;
    for (const { version, resolve } of this.#waiting) if (version <= folded.version) resolve(folded);
    this.#waiting = this.#waiting.filter(({ version }) => version > folded.version);
  }
}

// Do one command, {client, do, ...given}; return its answer.
export async function perform({ client, do: what, ...given }) {
  if (what === "open") clients.set(client, new Client(given.url, given.thread));
  else if (what === "clone") clients.set(client, clients.get(given.of).clone());
  else return clients.get(client)[what](given);
  return {};
}
