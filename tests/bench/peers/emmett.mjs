// Emmett on PostgreSQL: a stream a document, and its own rebuild of a Pongo projection.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { change, fold, readArguments, run } from "./work.mjs";

const PAGE = 1_000;

const work = readArguments();
const require = createRequire(pathToFileURL(`${work.home}/`));
const load = (name) => import(pathToFileURL(require.resolve(name)).href).then((found) => found.default ?? found);
const { getPostgreSQLEventStore, pongoSingleStreamProjection, rebuildPostgreSQLProjections } = await load(
  "@event-driven-io/emmett-postgresql",
);

const evolve = (state, { data }) => fold(state, data.patch);
const initialState = () => ({});
const projection = pongoSingleStreamProjection({
  collectionName: "states",
  canHandle: ["changed"],
  evolve,
  initialState,
});

const store = getPostgreSQLEventStore(work.address);
await store.schema.migrate();

const peer = {
  async append(document, version, patches) {
    const expectedStreamVersion = version ? BigInt(version) : "STREAM_DOES_NOT_EXIST";
    const events = patches.map((patch) => ({ type: "changed", data: { patch } }));
    await store.appendToStream(document, events, { expectedStreamVersion });
  },
  async load(document, version) {
    const read = version ? { to: BigInt(version) } : undefined;
    return (await store.aggregateStream(document, { evolve, initialState, read })).state;
  },
  async rebuild() {
    const consumer = rebuildPostgreSQLProjections({
      connectionString: work.address,
      projection,
      pulling: { batchSize: PAGE },
    });
    await consumer.start();
    await consumer.close();
  },
  async check(document, version) {
    const { Pool } = await load("pg");
    const pool = new Pool({ connectionString: work.address });
    const { rows } = await pool.query("SELECT data FROM states WHERE _id = $1", [document]);
    const [{ path, value }] = change(document, version);
    assert.deepEqual(rows[0].data[path.slice(1)], value);
    await pool.end();
  },
};

await run(peer, work);
await store.close();
