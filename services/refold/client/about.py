"""What an author may say of a write, and how a time may be given. For users of the client.

Every write carries an id, made here where none is given, so that a lost answer can be looked up or sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypedDict
from uuid import uuid4

from refold.core import canonical
from refold.core.canonical import Json
from refold.core.errors import Refused

Time = str | int | float | datetime
"""RFC 3339, a bare date, unix seconds, or a datetime that knows its zone."""


class About(TypedDict, total=False):
    """The keyword arguments of every write.

    `if_version`: only while the document is at this version (0 = never existed); `if_absent`: only while it is
    absent; else the outcome is `conflict` and nothing is published. `base`: the version that the author saw.
    `wait_seconds`: how long to wait for the outcome (0 = not at all: `pending`).
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


def headers_of(about: About) -> dict[str, str]:
    """Write them as the request's headers."""
    headers = {"Idempotency-Key": about["id"] if "id" in about else new_id()}
    for name in ("type", "actor", "correlation_id", "causation_id", "base"):
        if name in about:
            headers[_HEADERS[name]] = str(about[name])
    if "occurred_at" in about:
        headers["Refold-Occurred-At"] = time_text(about["occurred_at"]) or ""
    if "meta" in about:
        headers["Refold-Meta"] = canonical.dumps(about["meta"]).decode()
    if "if_version" in about:
        headers["If-Match"] = f'"{about["if_version"]}"'
    if about.get("if_absent"):
        headers["If-None-Match"] = "*"
    if "wait_seconds" in about:
        headers["Refold-Wait"] = str(about["wait_seconds"])
    return headers


def bytes_of(event: Mapping[str, Json] | bytes) -> bytes:
    """Write an event of many as its line."""
    return event if isinstance(event, bytes) else canonical.dumps(event)


def line_of(event: Mapping[str, Json] | bytes) -> bytes:
    """Write an event of many as a line that may be sent again: one without an id gets one."""
    try:
        fields = canonical.loads(event) if isinstance(event, bytes) else event
    except Refused:
        # The service answers which rule it breaks.
        return bytes_of(event)
    if not isinstance(fields, Mapping) or "id" in fields:
        return bytes_of(event)
    return canonical.dumps({**fields, "id": new_id()})


def new_id() -> str:
    """Make an id for a write whose author gave none."""
    return uuid4().hex


def time_text(time: Time | None) -> str | None:
    """Write a time as the gateway takes it."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise Refused("bad_time", "a datetime must know its zone", field="time", shape="naive datetime")
        return time.isoformat()
    return time if time is None else str(time)


_HEADERS = {
    "type": "Refold-Type",
    "actor": "Refold-Actor",
    "correlation_id": "Refold-Correlation-Id",
    "causation_id": "Refold-Causation-Id",
    "base": "Refold-Base",
}
