"""The options of a write and the forms of a time. For users of the client.

Every write carries an id, made here if none is given, so that a lost answer can be looked up or sent again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from difflib import get_close_matches
from math import isfinite
from time import time_ns
from typing import Any, Final, Literal, TypedDict

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.json_text import Json
from refold.core.pointer import escape
from refold.core.timestamp import format_time, is_relative, parse_time

Time = str | int | float | datetime
"""RFC 3339, a bare date, unix seconds or milliseconds, `now`, `-5m`, `5m ago`, or a datetime with a zone."""


class WriteOptions(TypedDict, total=False):
    """The keyword arguments of every write.

    `if_version`: write only if the document is at this version (0 = never existed); `if_absent`: only if it is absent.
    Otherwise nothing is published and `Conflict` is raised; with `strict=False` the outcome `conflict` is returned.
    `base`: the version that the author saw; `session`: names the author's events that are in flight together, each with
    the version that was seen last. `on_conflict`: the strategy where the document has changed since the base:
    `reject`, `first_write_wins`, `last_write_wins`, `merge` or `custom:NAME`; `all_or_nothing`: an operation that would
    be dropped rejects the event. `resolves`: the sequence of the rejected event that this one is the decision on.
    `wait_seconds`: how long to wait for the outcome, tries to send the write again included (0: do not wait, the
    outcome is `pending`). `committed`: wait until the projection has committed the outcome, too, so that SQL reads it.
    """

    id: str
    type: str
    actor: str
    occurred_at: Time
    meta: dict[str, Json]
    correlation_id: str
    causation_id: str
    base: int
    session: str
    on_conflict: str
    all_or_nothing: bool
    resolves: int
    if_version: int
    if_absent: bool
    wait_seconds: float
    committed: bool
    strict: bool


class WatchOptions(TypedDict, total=False):
    """The keyword arguments of `watch`.

    Of a document: `path`, a JSON Pointer, in which `*` matches any member or element, and `depth`, the levels below it
    that count (by default all); `mode="values"` for values instead of patches, as with `*`. Of a namespace: `prefix` of
    the documents' ids; `mode="changes"` for each change with its patch, instead of the newest version of each document;
    `type` of the changes, exact or as in `order.*`.

    `after`: a version, of a namespace a sequence of the log, or the `cursor` of an update: begin after it. `interval`:
    the least seconds between two updates. `merge=False`: an update for each version.
    """

    path: str
    depth: int
    prefix: str
    mode: Literal["patch", "values", "heads", "changes"]
    type: str
    after: int | str
    interval: float
    merge: bool


def headers_of(options: WriteOptions) -> dict[str, str]:
    """Return the options as request headers. Raises `TypeError` for one that is unknown, None or no string."""
    for name in options.keys() - WriteOptions.__annotations__.keys():
        hint = did_you_mean(name, WriteOptions.__annotations__)
        raise TypeError(f"a write got an unexpected keyword argument {name!r}{hint}")
    given: dict[str, Any] = {"id": new_id(), **options}
    for name, value in given.items():
        if value is None:
            # As text it would be an id or an author of that name.
            raise TypeError(f"{name} is None: leave it out instead")
        if name in _TEXTS and not isinstance(value, str):
            raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    headers = {header: form(given[name]) for name, (header, form) in _HEADERS.items() if name in given}
    headers |= wait_header(given.get("wait_seconds"), is_for_commit=given.get("committed", False))
    return headers | ({"If-None-Match": "*"} if given.get("if_absent") else {})


def in_arguments(message: str) -> str:
    """Return a message of the gateway with the names of arguments in place of those of headers: `if_version=`."""
    return _HEADER_NAME.sub(lambda found: f"{argument_of(found[0])}=", message)


def argument_of(header: str) -> str:
    """Return the name of the argument that becomes a header, or a member of the only subscription; else the name."""
    return _ARGUMENTS.get(header.lower(), header.removeprefix("sub[0]."))


def wait_header(seconds: float | None, *, is_for_commit: bool) -> dict[str, str]:
    """Return how long a write waits as a request header; none by default."""
    parts = ([] if seconds is None else [str(seconds)]) + (["committed"] if is_for_commit else [])
    return {"Refold-Wait": "; ".join(parts)} if parts else {}


def lines_of(events: Iterable[Mapping[str, Json] | bytes], *, needs_ids: bool) -> list[bytes]:
    """Return events as their lines; those that may be sent again get an id if they have none.

    Raises `Refused` for an unknown member or a value that is not JSON; the field is its pointer into the list. Given
    bytes are not checked here: the service answers for a line that breaks a rule.
    """
    from refold.core.event import FIELDS, LATER_FIELDS  # noqa: PLC0415 - a program that only reads does without it.

    known, lines = FIELDS | LATER_FIELDS | {"doc"}, []
    for number, event in enumerate(events):
        if isinstance(event, bytes):
            lines.append(_with_id(event) if needs_ids else event)
            continue
        fields = {**event}
        for name in fields.keys() - known:
            rule = f"an event has no such member{did_you_mean(str(name), known)}"
            raise Refused("unknown_field", rule, field=f"/{number}/{name}")
        if isinstance(fields.get("occurred_at"), datetime):
            fields["occurred_at"] = time_text(fields["occurred_at"])
        if needs_ids and "id" not in fields:
            fields["id"] = new_id()
        lines.append(json_bytes(fields, f"/{number}"))
    return lines


def transaction_bytes(changes: Iterable[Mapping[str, Json]]) -> bytes:
    """Return the body of a transaction. Raises `Refused` for a value that is not JSON, naming its pointer."""
    items = [{**change} for change in changes]
    for item in items:
        if isinstance(item.get("occurred_at"), datetime):
            item["occurred_at"] = time_text(item["occurred_at"])
    return json_bytes({"changes": items})


def _with_id(line: bytes) -> bytes:
    with suppress(Refused):
        fields = json_text.loads(line)
        if isinstance(fields, dict) and "id" not in fields:
            return json_text.dumps({**fields, "id": new_id()})
    return line


def json_bytes(value: Json, where: str = "") -> bytes:
    """Return a value as canonical JSON. Raises `Refused` for what JSON does not have, naming its pointer.

    `where` is the value's own pointer.
    """
    try:
        text = json_text.dumps(value)
        # NaN is written as null and a datetime as a string: reading the text again shows it.
        if json_text.reread(text) != value:
            _check_value(value, where)
    except TypeError as error:
        _check_value(value, where)
        raise Refused("bad_json", f"not JSON: {error}", field=where) from error
    return text


def _check_value(value: object, where: str, levels: int = json_text.TEXT_DEPTH_MAX) -> None:
    """Raise `Refused` for the first value that JSON does not have. A tuple is an array."""
    if levels < 0:
        raise Refused("too_deep", f"nested more than {json_text.TEXT_DEPTH_MAX} levels")
    if isinstance(value, dict):
        for key, member in value.items():
            if type(key) is not str:
                raise Refused("bad_json", "a member's name is a string", field=where, shape=repr(key)[:80])
            _check_value(key, where)
            _check_value(member, f"{where}/{escape(key)}", levels - 1)
    elif isinstance(value, list) or type(value) is tuple:
        for index, item in enumerate(value):
            _check_value(item, f"{where}/{index}", levels - 1)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            rule = "half of a surrogate pair stands alone in a string"
            raise Refused("lone_surrogate", rule, field=where) from error
    elif isinstance(value, int):
        if not json_text.INTEGER_MIN <= value <= json_text.INTEGER_MAX:
            rule = "an integer is from -2^63 to 2^64-1"
            raise Refused(
                "number_out_of_range", rule, field=where, shape=f"an integer of {value.bit_length()} bits"
            )
    elif value is not None and not (type(value) is float and isfinite(value)):
        name = _NOT_FINITE.get(str(value)) if type(value) is float else None
        raise Refused("bad_json", f"{name or type(value).__name__} is not a JSON value", field=where)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the most similar name; empty where none is similar."""
    similar = get_close_matches(name, known, n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def new_id() -> str:
    """Return a new event id."""
    return os.urandom(16).hex()


def fixed_time(time: Time | None) -> str | None:
    """Return a time as text that means the same in every request: a relative one is resolved here."""
    text = None if time is None else time_text(time)
    return format_time(parse_time(text, now=time_ns())) if text and is_relative(text) else text


def time_text(time: Time) -> str:
    """Return a time as text for the gateway."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise Refused("bad_time", "a datetime must know its zone", field="time", shape="naive datetime")
        return time.isoformat()
    return str(time)


_NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_TEXTS: Final = frozenset({"id", "type", "actor", "correlation_id", "causation_id", "session", "on_conflict"})
_HEADERS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "id": ("Idempotency-Key", str),
    "type": ("Refold-Type", str),
    "actor": ("Refold-Actor", str),
    "correlation_id": ("Refold-Correlation-Id", str),
    "causation_id": ("Refold-Causation-Id", str),
    "base": ("Refold-Base", str),
    "session": ("Refold-Session", str),
    "on_conflict": ("Refold-On-Conflict", str),
    "all_or_nothing": ("Refold-All-Or-Nothing", lambda is_whole: "true" if is_whole else "false"),
    "resolves": ("Refold-Resolves", str),
    "occurred_at": ("Refold-Occurred-At", time_text),
    "meta": ("Refold-Meta", lambda meta: json_bytes(meta, "meta").decode()),
    "if_version": ("If-Match", '"{}"'.format),
}
_ARGUMENTS: Final = {header.lower(): name for name, (header, _) in _HEADERS.items()} | {
    "if-none-match": "if_absent",
    "refold-wait": "wait_seconds",
    "refold-min-sequence": "min_sequence",
}
_HEADER_NAME: Final = re.compile(rf"\b(?:{'|'.join(_ARGUMENTS)})\b", re.IGNORECASE)
