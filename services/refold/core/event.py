"""An event: one immutable change, decoded from its recorded bytes and checked against a rule set's limits.

Used by the fold, and by the gateway before it publishes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from refold.core.document import Kind, Limits
from refold.core.envelope import Envelope, open_envelope
from refold.core.errors import Refused
from refold.core.json_text import Json, identical, shape_of, size_within
from refold.core.patch import Operation, Operations, compile_patch
from refold.core.timestamp import parse_rfc3339

VERSION_MAX: Final = 2**63 - 1
"""What a store's integers hold."""

TRANSACTION_MEMBERS_MAX: Final = 1_000
"""Members of one transaction: the events of one atomic batch, by the broker's own bound."""

CHANGES: Final = {"patch": Kind.patch, "merge": Kind.merge, "put": Kind.put, "delete": Kind.delete}
TEXTS: Final = ("id", "type", "actor", "correlation_id", "causation_id")
STRATEGIES: Final = frozenset({"reject", "first_write_wins", "last_write_wins", "merge"})
LATER_FIELDS: Final = frozenset({"all_or_nothing", "session", "principal", "txn", "reverts", "resolves"})
FIELDS: Final = frozenset({*CHANGES, *TEXTS, "v", "base", "on_conflict", "occurred_at", "meta"})


class Membership(NamedTuple):
    """An event's part in a transaction: at a position, from 0, among so many members.

    `settings` is the sequence of the namespace's settings that it was checked under (0: the defaults); None: those in
    force where it is.
    """

    id: str
    position: int
    members: int
    settings: int | None


class Event(NamedTuple):
    """A decoded event.

    `value` is the patch or merge patch as sent, the state put, or True; `operations` the compiled patch of a
    `patch`, `size` the canonical bytes of a `put`, `occurred_at` nanoseconds; `fields` all that it says. Values are
    handed to the document that they are folded into: decode the bytes again to read them later.
    """

    kind: Kind
    value: Json
    operations: list[Operation]
    size: int
    fields: dict[str, Json]
    base: int | None
    on_conflict: str | None
    occurred_at: int | None


def decode(headers: bytes, body: bytes, limits: Limits, operations: Operations) -> Event:
    """Decode an event from its author's stored header lines and its body. Raises `Refused`."""
    return check_event(open_envelope(headers, body, limits), limits, operations)


def check_event(
    envelope: Envelope, limits: Limits, operations: Operations, later: frozenset[str] = frozenset()
) -> Event:
    """Check an opened event. Raises `Refused`, naming field, rule and shape.

    `later` are the fields that a fold number has in addition to those of fold 1.
    """
    fields, event_id = envelope
    change = ""
    for name, value in fields.items():
        if type(value) is str and (name in _PLAIN_TEXTS or (name == "id" and event_id is not None)):
            continue
        if change or name not in CHANGES:
            return _check_all(envelope, limits, operations, later)
        change = name
    if change == "patch":
        value = fields["patch"]
        # The generated constructor is slower, and this runs for every event.
        return tuple.__new__(
            Event, (_PATCH, value, compile_patch(value, limits, operations), 0, fields, None, None, None)
        )
    return _check_all(envelope, limits, operations, later)


def _check_all(envelope: Envelope, limits: Limits, shapes: Operations, later: frozenset[str]) -> Event:
    """Check an event that has more than a patch and texts, or say which rule it breaks."""
    fields = envelope.fields
    others = fields.keys() - FIELDS
    if others and not others <= later:
        name = min(others - later)
        if name in LATER_FIELDS:
            rule = "belongs to a later fold"
            raise Refused("not_in_this_fold", rule, field=name, shape=shape_of(fields[name]))
        known = f"its fields are {', '.join(sorted(FIELDS | later))}"
        rule = "the version that an event expects is `base`" if name == "if_version" else known
        raise Refused("unknown_field", f"an event has no such field; {rule}", field=repr(name[:64]))
    named = sorted(fields.keys() & CHANGES.keys())
    if len(named) != 1:
        rule = "exactly one of patch, merge, put, delete"
        raise Refused("bad_event", rule, field="body", shape=", ".join(named) or "none")
    kind, value = CHANGES[named[0]], fields[named[0]]
    operations: list[Operation] = []
    size = 0
    if kind is Kind.patch:
        operations = compile_patch(value, limits, shapes)
    elif kind is Kind.put:
        size = size_within(value, limits.depth)
    elif kind is Kind.delete and value is not True:
        raise _bad("delete", "must be true", value)
    checked = _check_others(envelope, limits)
    if others:
        _check_later(fields, limits)
    return Event(kind, value, operations, size, fields, *checked)


def _check_others(envelope: Envelope, limits: Limits) -> tuple[int | None, str | None, int | None]:
    """Check the fields beside the change; return `base`, `on_conflict` and `occurred_at`."""
    fields = envelope.fields
    if "v" in fields and not identical(fields["v"], 1):
        raise _bad("v", "the envelope's version is 1", fields["v"])
    for name in TEXTS:
        if name in fields and type(fields[name]) is not str:
            raise _bad(name, "must be a string", fields[name])
    if "id" in fields and envelope.id is None:
        raise _bad("id", f"must be of 1 to {limits.id_chars} characters", fields["id"])
    base = _base(fields["base"]) if "base" in fields else None
    on_conflict = check_strategy(fields["on_conflict"]) if "on_conflict" in fields else None
    occurred_at = None
    if "occurred_at" in fields:
        occurred_at = parse_rfc3339(_text("occurred_at", fields["occurred_at"]))
    if "meta" in fields and not isinstance(fields["meta"], dict):
        raise _bad("meta", "must be an object", fields["meta"])
    return base, on_conflict, occurred_at


def _check_later(fields: dict[str, Json], limits: Limits) -> None:
    """Check the fields that fold 1 does not have."""
    if "session" in fields and not 1 <= len(_text("session", fields["session"])) <= limits.id_chars:
        raise _bad("session", f"must be of 1 to {limits.id_chars} characters", fields["session"])
    if "all_or_nothing" in fields and type(fields["all_or_nothing"]) is not bool:
        raise _bad("all_or_nothing", "must be a boolean", fields["all_or_nothing"])
    for name in ("reverts", "resolves"):
        if name in fields and not (type(fields[name]) is int and 1 <= fields[name] <= VERSION_MAX):
            raise _bad(name, "must be an integer from 1", fields[name])
    if "txn" in fields:
        read_membership(fields["txn"], limits)


def read_membership(value: Json, limits: Limits) -> Membership:
    """Read the field `txn`. Raises `Refused`."""
    if type(value) is not dict or not _MEMBERSHIP_LEAST <= value.keys() <= _MEMBERSHIP:
        raise _bad("txn", "must be an object of id, index, count, and settings where it names them", value)
    transaction_id, index, count, settings = (
        value.get(name) for name in ("id", "index", "count", "settings")
    )
    if type(transaction_id) is not str or not 1 <= len(transaction_id) <= limits.id_chars:
        raise _bad("txn/id", f"must be a string of 1 to {limits.id_chars} characters", transaction_id)
    if type(count) is not int or not 1 <= count <= TRANSACTION_MEMBERS_MAX:
        raise _bad("txn/count", f"must be an integer from 1 to {TRANSACTION_MEMBERS_MAX}", count)
    if type(index) is not int or not 0 <= index < count:
        raise _bad("txn/index", "must be an integer from 0, below count", index)
    if "settings" in value and not (type(settings) is int and 0 <= settings <= VERSION_MAX):
        raise _bad("txn/settings", "must be a sequence: an integer from 0", settings)
    return Membership(transaction_id, index, count, settings)


def _text(name: str, value: Json) -> str:
    if not isinstance(value, str):
        raise _bad(name, "must be a string", value)
    return value


def _base(value: Json) -> int:
    if type(value) is not int or not 0 <= value <= VERSION_MAX:
        raise _bad("base", "must be a version: an integer from 0", value)
    return value


def check_strategy(value: Json) -> str:
    """Return the name of a strategy, or refuse what is none."""
    strategy = _text("on_conflict", value)
    if strategy not in STRATEGIES and not (strategy.startswith("custom:") and len(strategy) > 7):
        raise _bad("on_conflict", f"one of {', '.join(sorted(STRATEGIES))}, custom:NAME", value)
    return strategy


def _bad(field: str, rule: str, value: Json) -> Refused:
    return Refused("bad_field", rule, field=field, shape=shape_of(value))


_MEMBERSHIP_LEAST: Final = frozenset({"id", "index", "count"})
_MEMBERSHIP: Final = _MEMBERSHIP_LEAST | {"settings"}
_PATCH: Final = Kind.patch
_PLAIN_TEXTS: Final = frozenset(TEXTS) - {"id"}
