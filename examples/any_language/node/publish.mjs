// One change from Node, by the package `nats`; its outcome arrives on a reply subject.
//
// `refold up`, then, in this folder, `npm install` and `node publish.mjs [nats://127.0.0.1:4222]`

import { connect, createInbox, headers } from "nats";

const [servers = "nats://127.0.0.1:4222"] = process.argv.slice(2);
const client = await connect({ servers });
const inbox = createInbox();
const outcomes = client.subscribe(inbox, { max: 1, timeout: 10_000 });
const patch = [{ op: "add", path: "/paid", value: 17.5 }, { op: "add", path: "/by", value: "Zoë" }];
const event = { patch, id: "payment-77", type: "order.paid", actor: "till-3" };
const reply = headers();
reply.set("Refold-Reply", inbox);
client.publish("state.acme.order-node", JSON.stringify(event), { headers: reply });
for await (const outcome of outcomes) console.log(outcome.string());
await client.close();
