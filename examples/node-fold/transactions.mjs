// Transactions over documents: an event says with `txn` that it is a member. It is one only where the broker's own
// headers show that all members were stored next to each other, as one atomic batch.

import { TRANSACTION_MEMBERS_MAX, authorHeaders, openEvent, readMembership } from "./event.mjs";
import { Refused } from "./json.mjs";

const TRANSACTION_BYTES_MAX = 8 * 1024 * 1024;
const PLACE = /^Nats-Batch-Id: ([!-~]+)\r\nNats-Batch-Sequence: ([1-9][0-9]{0,3})\r\n(Nats-Batch-Commit: 1\r\n)?$/;

/**
 * Return the transaction whose first member is at an index, as its members with the latest time; undefined
 * where that is none, or it is not whole. `routeOf` returns where a subject belongs.
 */
export function transactionAt(records, at, rules, routeOf) {
  const first = records[at];
  const begun = placeOf(first);
  const members = [];
  let bytes = 0;
  for (const record of begun ? records.slice(at, at + Number(TRANSACTION_MEMBERS_MAX)) : []) {
    const [place, where, number] = [placeOf(record), routeOf(record.subject), members.length];
    bytes += record.body.length;
    const isUsual = !where.reason && where.namespace !== "_refold" && bytes <= TRANSACTION_BYTES_MAX;
    const member = isUsual ? membershipOf(record, rules) : undefined;
    const isNext = record.sequence === first.sequence + number && place?.id === begun.id && place.number === number + 1;
    if (!member || !isNext || member.index !== BigInt(number)) return undefined;
    members.push(member);
    if (member.id !== members[0].id || member.count !== members[0].count) return undefined;
    if (!place.isLast) continue;
    if (BigInt(members.length) !== member.count) return undefined;
    const times = records.slice(at, at + members.length).map(({ time }) => time);
    const time = times.reduce((latest, each) => (each > latest ? each : latest));
    return { first: first.sequence, last: record.sequence, members, time };
  }
  return undefined;
}

/** Where the broker's headers say that an event is in an atomic batch. */
function placeOf({ headers }) {
  const lines = headers.toString("latin1").split("\r\n");
  const ours = lines.filter((line) => line.toLowerCase().startsWith("nats-batch-"));
  const found = PLACE.exec(ours.map((line) => `${line}\r\n`).join(""));
  return found ? { id: found[1], number: Number(found[2]), isLast: found[3] !== undefined } : undefined;
}

/** The field is in the body, and its name is written without escapes. */
function membershipOf({ headers, body }, rules) {
  if (!body.includes('"txn"') || !headers.includes("Nats-Batch-Id: ")) return undefined;
  try {
    const fields = openEvent(authorHeaders(headers), body, rules.limits);
    return fields.has("txn") ? readMembership(fields.get("txn")) : undefined;
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    return undefined;
  }
}
