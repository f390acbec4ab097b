// The settings of a namespace: how its events are folded, from the one that sets them on. They are a document of the
// system's namespace, `settings:NAMESPACE`.

import { LIMITS } from "./change.mjs";
import { STRATEGY } from "./event.mjs";
import { Refused, refuse } from "./json.mjs";
import { NAME } from "./names.mjs";
import { compileSchema, violation } from "./schema.mjs";

export const SETTINGS_PREFIX = "settings:";
const MEMBERS = ["on_conflict", "limits", "schema", "feed"];
const KEPT_MAX = 8;
const DEFAULTS = { onConflict: "last_write_wins", limits: {}, check: undefined };

/** Return the settings that a state of the document puts in force, or refuse it. */
export function readSettings(document, state) {
  const namespace = document.slice(SETTINGS_PREFIX.length);
  if (!NAME.test(namespace)) refuse("bad_name");
  if (namespace.startsWith("_")) refuse("reserved_namespace");
  const isValid = state instanceof Map && [...state.keys()].every((name) => MEMBERS.includes(name));
  if (!isValid || typeof (state.get("feed") ?? false) !== "boolean") refuse("bad_system_event");
  const onConflict = state.has("on_conflict") ? state.get("on_conflict") : DEFAULTS.onConflict;
  if (typeof onConflict !== "string" || !STRATEGY.test(onConflict)) refuse("bad_system_event");
  const limits = state.has("limits") ? readLimits(state.get("limits")) : {};
  return { onConflict, limits, check: state.has("schema") ? readSchema(state.get("schema")) : undefined };
}

function readLimits(state) {
  const isLimit = ([name, value]) =>
    Object.hasOwn(LIMITS, name) && typeof value === "bigint" && value >= 1n && value <= BigInt(LIMITS[name]);
  if (!(state instanceof Map) || ![...state].every(isLimit)) refuse("bad_system_event");
  return Object.fromEntries([...state].map(([name, value]) => [name, Number(value)]));
}

/** Return a function that refuses a state which the schema does not allow. */
function readSchema(source) {
  try {
    const schema = compileSchema(source);
    return (state) => violation(schema, state) && refuse("schema");
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    return refuse("bad_system_event");
  }
}

/** The settings of all namespaces, as the log has set them so far. */
export class SettingsInForce {
  #kept = new Map();

  /** Put settings in force from the event after the one that sets them. */
  set(namespace, sequence, settings) {
    this.#kept.set(namespace, [...this.#of(namespace), [sequence, settings]].slice(-KEPT_MAX));
  }

  #of(namespace) {
    return this.#kept.get(namespace) ?? [[0, DEFAULTS]];
  }

  /** Return the rules under a namespace's settings. */
  rules(namespace, rules) {
    return under(rules, this.#of(namespace).at(-1)[1]);
  }

  /** The same under those that the event at a sequence set, 0: the defaults; undefined where they are not kept. */
  rulesAt(namespace, rules, sequence) {
    const found = this.#of(namespace).find(([setAt]) => BigInt(setAt) === sequence);
    return found && under(rules, found[1]);
  }
}

function under(rules, { onConflict, limits, check }) {
  return { ...rules, limits: { ...rules.limits, ...limits }, onConflict, check };
}
