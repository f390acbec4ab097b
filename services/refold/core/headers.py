"""An author's headers: raw lines as the log stores them, read into the fields of an event.

Used by the event decoder; names compare without case, and a repeated one of ours is refused.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from refold.core import canonical
from refold.core.errors import Refused
from refold.core.limits import INTEGER_MIN, Limits

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
CLOUD_EVENT: Final = "application/cloudevents+json"

_INTEGER: Final = re.compile(r"-?(0|[1-9]\d{0,18})", re.ASCII)
_OURS: Final = (b"refold-", b"ce-")
_CONTENT_TYPE: Final = b"content-type"
_TEXT_FIELDS: Final = {
    "refold-id": "id",
    "refold-type": "type",
    "refold-actor": "actor",
    "refold-occurred-at": "occurred_at",
    "refold-correlation-id": "correlation_id",
    "refold-causation-id": "causation_id",
    "refold-on-conflict": "on_conflict",
    "refold-principal": "principal",
    "refold-session": "session",
}
_INTEGER_FIELDS: Final = {
    "refold-v": "v",
    "refold-base": "base",
    "refold-reverts": "reverts",
    "refold-resolves": "resolves",
}
_JSON_FIELDS: Final = {"refold-meta": "meta", "refold-all-or-nothing": "all_or_nothing", "refold-txn": "txn"}


def read_headers(headers: bytes) -> dict[str, str]:
    """Read `Content-Type`, `Refold-*` and `ce-*` by lower-case name; others are the transport's business."""
    ours: dict[str, str] = {}
    for line in headers.split(b"\r\n"):
        if not line:
            continue
        raw_name, colon, raw_value = line.partition(b":")
        if not colon:
            raise Refused(
                "bad_header", "a header is `Name: value`", field="headers", shape=f"{len(line)} bytes"
            )
        lowered = raw_name.strip(b" \t").lower()
        if not lowered.startswith(_OURS) and lowered != _CONTENT_TYPE:
            continue
        name, value = _text(lowered, "a header's name"), _text(raw_value.strip(b" \t"), "a header's value")
        if name in ours:
            raise Refused("repeated_header", "a header may stand once", field=name)
        ours[name] = value
    return ours


def media_type(content_type: str) -> str:
    """Return a content type without its parameters, lower-case."""
    return content_type.partition(";")[0].strip(" \t").lower()


def fields_of(ours: dict[str, str], limits: Limits) -> dict[str, canonical.Json]:
    """Read the event's fields that stand in `Refold-*` headers, `Refold-Reply` left out."""
    fields: dict[str, canonical.Json] = {}
    for name, value in ours.items():
        if name in _TEXT_FIELDS:
            fields[_TEXT_FIELDS[name]] = value
        elif name in _INTEGER_FIELDS:
            fields[_INTEGER_FIELDS[name]] = _integer(name, value)
        elif name in _JSON_FIELDS:
            fields[_JSON_FIELDS[name]] = canonical.loads(value.encode(), limits.text_depth)
        elif name.startswith("refold-") and name != "refold-reply":
            raise Refused("unknown_field", "no such Refold header", field=name)
    return fields


def cloud_attributes(ours: dict[str, str]) -> dict[str, canonical.Json]:
    """Read a CloudEvent's attributes from its `ce-*` headers (percent-encoded)."""
    return {name[3:]: _unquoted(name, value) for name, value in ours.items() if name.startswith("ce-")}


def _integer(name: str, value: str) -> int:
    # Below the least integer there is nothing to write in canonical bytes; 19 digits end short of the greatest.
    if not _INTEGER.fullmatch(value) or int(value) < INTEGER_MIN:
        raise Refused(
            "bad_field", "must be an integer", field=name, shape=f"string of {len(value)} characters"
        )
    return int(value)


def _unquoted(name: str, value: str) -> str:
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise Refused("bad_header", "percent-encoded bytes must be UTF-8", field=name) from None


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused(
            "bad_header", f"{what} must be UTF-8", field="headers", shape=f"{len(raw)} bytes"
        ) from None
