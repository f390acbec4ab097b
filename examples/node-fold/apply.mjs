// What an event does that is applied at the head: its author expects no version, or has seen the last one.

import { applyMerge, applyPatch } from "./change.mjs";
import { applyExtended } from "./extensions.mjs";
import { refuse } from "./json.mjs";

/** The state of a document that was never written, or was deleted. */
export const ABSENT = undefined;

/** Return the new state and its size, and the effective patch where it is not the event's own. */
export function applyChange(document, event, rules) {
  const isAbsent = document.state === ABSENT;
  const [state, bytes] = isAbsent ? [new Map(), 2] : [document.state, document.size];
  if (event.kind === "patch") {
    const [apply, patch] = rules.number === 1n ? [applyPatch, event.operations] : [applyExtended, event.value];
    const { root, size, effect } = apply(state, patch, bytes, rules);
    return { state: root, size, effect };
  }
  if (event.kind === "merge") {
    const { root, size, effect } = applyMerge(state, event.value, bytes, rules);
    return { state: root, size, effect };
  }
  if (event.kind === "delete") return isAbsent ? refuse("document_absent") : { state: ABSENT, size: 0 };
  if (event.bytes > rules.limits.state_bytes) refuse("state_too_large");
  rules.check?.(event.value);
  return { state: event.value, size: event.bytes };
}
