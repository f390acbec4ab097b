// Three-way merges of values: what an author saw, what is at the head, and what the author wrote instead. Objects are
// merged key by key, texts by position. Of two other values the incoming one stays.

import { byCodePoint, identical } from "./json.mjs";

const areObjects = (...values) => values.every((value) => value instanceof Map);
const areTexts = (...values) => values.every((value) => typeof value === "string");

export const canMerge = (seen, head, incoming) => areObjects(seen, head, incoming) || areTexts(seen, head, incoming);

/** Return the merged value; it shares parts with what it is made of. */
export function merged(seen, head, incoming) {
  if (identical(seen, incoming)) return head;
  if (areObjects(seen, head, incoming)) return mergedMembers(seen, head, incoming);
  const isText = areTexts(seen, head, incoming) && head !== seen && head !== incoming;
  return isText ? mergedTexts(seen, head, incoming) : incoming;
}

function mergedMembers(seen, head, incoming) {
  const members = new Map(head);
  for (const key of new Set([...seen.keys(), ...incoming.keys()])) {
    const [saw, old, value] = [seen, head, incoming].map((each) => each.get(key));
    const [isSeen, isThere] = [seen.has(key), head.has(key)];
    if (!incoming.has(key)) {
      // An edit inside keeps what another removes.
      if (isThere && identical(saw, old)) members.delete(key);
    } else if (!isThere) {
      if (!isSeen || !identical(saw, value)) members.set(key, value);
    } else if (areObjects(old, value)) members.set(key, merged(areObjects(saw) ? saw : new Map(), old, value));
    else members.set(key, isSeen ? merged(saw, old, value) : value);
  }
  return members;
}

/**
 * Return operations that change members of objects, each as [op, tokens, value]. Where the value at tokens `isOther` than
 * the one that was changed, it is replaced as a whole.
 */
export function memberChanges(before, after, isOther, tokens = []) {
  if (!areObjects(before, after) || isOther(tokens)) {
    return identical(before, after) ? [] : [["replace", tokens, after]];
  }
  const keys = [...new Set([...before.keys(), ...after.keys()])].sort(byCodePoint);
  return keys.flatMap((key) => {
    const inner = [...tokens, key];
    if (!after.has(key)) return [["remove", inner]];
    if (!before.has(key)) return [["add", inner, after.get(key)]];
    return memberChanges(before.get(key), after.get(key), isOther, inner);
  });
}

/** Make both edits: what either removes is removed, what either inserts is there, the incoming first. */
function mergedTexts(...texts) {
  const [seen, head, incoming] = texts.map((text) => [...text]);
  const edits = [edit(seen, incoming), edit(seen, head)].sort((a, b) => a.begin - b.begin);
  const parts = [];
  let at = 0;
  for (const { begin, end, inserted } of edits) {
    parts.push(...seen.slice(at, Math.max(at, begin)), ...inserted);
    at = Math.max(at, end);
  }
  return [...parts, ...seen.slice(at)].join("");
}

/** A side's edit is all between the common beginning and the common end. */
function edit(old, text) {
  const most = Math.min(old.length, text.length);
  let [begin, rest] = [0, 0];
  while (begin < most && old[begin] === text[begin]) begin += 1;
  while (rest < most - begin && old.at(-1 - rest) === text.at(-1 - rest)) rest += 1;
  return { begin, end: old.length - rest, inserted: text.slice(begin, text.length - rest) };
}
