"""The forms in which an event is published, opened to one set of fields: native, bare patch, CloudEvents.

Used by the fold, before any field is judged, so that an event that breaks a rule still carries its `id`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from refold.core import canonical
from refold.core.canonical import Json
from refold.core.errors import Refused
from refold.core.headers import (
    CLOUD_EVENT,
    JSON_PATCH,
    MERGE_PATCH,
    cloud_attributes,
    fields_of,
    media_type,
    read_headers,
)
from refold.core.limits import EVENT_BYTES_MAX, HEADERS_BYTES_MAX, ID_CHARS_MAX
from refold.core.shape import shape_of

_REPLY: Final = re.compile(r"(_INBOX|refold\.reply)(\.[!-)+-\-/-=?-~]+)+", re.ASCII)
"""Only there, and no wildcard: printable ASCII tokens without `*` and `>`."""


class Envelope(NamedTuple):
    """An event's fields, each said once; `id` where it carries a valid one."""

    fields: dict[str, Json]
    id: str | None


def open_envelope(headers: bytes, body: bytes) -> Envelope:
    """Open any form. `headers` are the author's stored lines. Raises `Refused`."""
    if len(body) > EVENT_BYTES_MAX:
        raise _too_large("event_too_large", "body", len(body), EVENT_BYTES_MAX)
    if not headers:
        return _envelope(_native(canonical.loads(body)))
    if len(headers) > HEADERS_BYTES_MAX:
        raise _too_large("headers_too_large", "headers", len(headers), HEADERS_BYTES_MAX)
    ours = read_headers(headers)
    fields = _body_fields(ours, body)
    _agree(fields, fields_of(ours), "Refold header")
    return _envelope(fields)


def reply_subject(headers: bytes) -> str | None:
    """Return the subject that an author named for the outcome, where it is one that is honoured."""
    if b"eply" not in headers and b"EPLY" not in headers:
        return None
    try:
        subject = read_headers(headers).get("refold-reply", "")
    except Refused:
        return None
    return subject if _REPLY.fullmatch(subject) else None


def content_of(envelope: Envelope) -> bytes:
    """Return what tells a retry from another event: canonical bytes of all fields but `id` (and `v`, if 1)."""
    fields = envelope.fields
    return canonical.dumps(
        {name: fields[name] for name in fields if name != "id" and (name, fields[name]) != ("v", 1)}
    )


def _envelope(fields: dict[str, Json]) -> Envelope:
    event_id = fields.get("id")
    is_valid = isinstance(event_id, str) and 1 <= len(event_id) <= ID_CHARS_MAX
    return Envelope(fields, event_id if is_valid else None)


def _body_fields(ours: dict[str, str], body: bytes) -> dict[str, Json]:
    media = media_type(ours)
    if media == CLOUD_EVENT:
        return _structured(canonical.loads(body))
    fields = _by_media(media, canonical.loads(body))
    if "ce-specversion" in ours:
        _agree(fields, _from_cloud(cloud_attributes(ours)), "ce header")
    return fields


def _by_media(media: str, value: Json) -> dict[str, Json]:
    if media == JSON_PATCH:
        return {"patch": value}
    return {"merge": value} if media == MERGE_PATCH else _native(value)


def _native(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise Refused("bad_event", "an event is a JSON object", field="body", shape=shape_of(value))
    return value


def _structured(value: Json) -> dict[str, Json]:
    attributes = _native(value)
    if "data" not in attributes:
        raise Refused("bad_event", "a structured CloudEvent needs `data`", field="data", shape="nothing")
    media = str(attributes.get("datacontenttype", "")).partition(";")[0].strip().lower()
    fields = _by_media(media, attributes["data"])
    _agree(fields, _from_cloud(attributes), "CloudEvents attribute")
    return fields


def _from_cloud(attributes: dict[str, Json]) -> dict[str, Json]:
    for name in ("specversion", "id", "source", "type"):
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            raise Refused(
                "bad_event", "a CloudEvent needs it, as a string", field=f"ce-{name}", shape=shape_of(value)
            )
    if attributes["specversion"] != "1.0":
        raise Refused(
            "bad_event", "CloudEvents 1.0 is taken", field="ce-specversion", shape="another version"
        )
    fields = {"id": f"{attributes['source']}|{attributes['id']}", "type": attributes["type"]}
    if "time" in attributes:
        fields["occurred_at"] = attributes["time"]
    return fields


def _agree(fields: dict[str, Json], others: dict[str, Json], source: str) -> None:
    """Add what the other source says; where both say a field, they must agree."""
    for name, value in others.items():
        if name in fields and not canonical.equal(fields[name], value):
            raise Refused("contradictory", f"body and {source} differ", field=name, shape=shape_of(value))
        fields[name] = value


def _too_large(reason: str, field: str, found: int, limit: int) -> Refused:
    return Refused(reason, f"at most {limit} bytes", field=field, shape=f"{found} bytes")
