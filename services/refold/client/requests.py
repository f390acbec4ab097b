"""The options of a write and the forms of a time. For users of the client.

Every write carries an id, made here if none is given, so that a lost answer can be looked up or sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from time import time_ns
from typing import Any, Final, TypedDict
from uuid import uuid4

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.json_text import Json
from refold.core.timestamp import format_time, is_relative, parse_time

Time = str | int | float | datetime
"""RFC 3339, a bare date, unix seconds or milliseconds, `now`, `-5m`, `5m ago`, or a datetime with a zone."""


class WriteOptions(TypedDict, total=False):
    """The keyword arguments of every write.

    `if_version`: write only if the document is at this version (0 = never existed); `if_absent`: only if it is absent.
    Otherwise nothing is published and `Conflict` is raised; with `strict=False` the outcome `conflict` is returned.
    `base`: the version that the author saw. `wait_seconds`: how long to wait for the outcome (0: do not wait, the
    outcome is `pending`).
    """

    id: str
    type: str
    actor: str
    occurred_at: Time
    meta: dict[str, Json]
    correlation_id: str
    causation_id: str
    base: int
    if_version: int
    if_absent: bool
    wait_seconds: float
    strict: bool


def headers_of(options: WriteOptions) -> dict[str, str]:
    """Return the options as request headers."""
    given: dict[str, Any] = {"id": new_id(), **options}
    headers = {header: form(given[name]) for name, (header, form) in _HEADERS.items() if name in given}
    return headers | ({"If-None-Match": "*"} if given.get("if_absent") else {})


def line_of(event: Mapping[str, Json] | bytes, *, needs_id: bool) -> bytes:
    """Return an event as its line; one that may be sent again gets an id if it has none."""
    # The service answers for a line that cannot be parsed.
    with suppress(Refused):
        fields = json_text.loads(event) if needs_id and isinstance(event, bytes) else event
        if needs_id and isinstance(fields, Mapping) and "id" not in fields:
            return json_text.dumps({**fields, "id": new_id()})
    return event if isinstance(event, bytes) else json_text.dumps(event)


def new_id() -> str:
    """Return a new event id."""
    return uuid4().hex


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


def _json_text(value: Json) -> str:
    return json_text.dumps(value).decode()


_HEADERS: Final[dict[str, tuple[str, Callable[[Any], str]]]] = {
    "id": ("Idempotency-Key", str),
    "type": ("Refold-Type", str),
    "actor": ("Refold-Actor", str),
    "correlation_id": ("Refold-Correlation-Id", str),
    "causation_id": ("Refold-Causation-Id", str),
    "base": ("Refold-Base", str),
    "occurred_at": ("Refold-Occurred-At", time_text),
    "meta": ("Refold-Meta", _json_text),
    "if_version": ("If-Match", '"{}"'.format),
    "wait_seconds": ("Refold-Wait", str),
}
