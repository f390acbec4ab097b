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
from refold.core.limits import REPLY_CHARS_MAX, Limits
from refold.core.shape import shape_of

_REPLY_LINE: Final = re.compile(
    rb"(?:\A|(?<=\r\n))[ \t]*refold-reply[ \t]*:[ \t]*(.*?)[ \t]*(?=\r\n)", re.IGNORECASE
)
_REPLY: Final = re.compile(rb"(_INBOX|refold\.reply)(\.[!-)+-\-/-=?-~]+)+")
"""Only there, and no wildcard: printable ASCII tokens without `*` and `>`."""


class Envelope(NamedTuple):
    """An event's fields, each said once; `id` where it carries a valid one."""

    fields: dict[str, Json]
    id: str | None


def open_envelope(headers: bytes, body: bytes, limits: Limits) -> Envelope:
    """Open any form. `headers` are the author's stored lines. Raises `Refused`."""
    if len(body) > limits.event_bytes:
        raise _too_large("event_too_large", "body", len(body), limits.event_bytes)
    if headers:
        return envelope_of(_with_headers(headers, body, limits), limits)
    fields = canonical.loads(body, limits.text_depth)
    return envelope_of(fields if type(fields) is dict else _native(fields), limits)


def _with_headers(headers: bytes, body: bytes, limits: Limits) -> dict[str, Json]:
    if len(headers) > limits.headers_bytes:
        raise _too_large("headers_too_large", "headers", len(headers), limits.headers_bytes)
    ours = read_headers(headers)
    fields = _body_fields(ours, canonical.loads(body, limits.text_depth))
    _agree(fields, fields_of(ours, limits), "Refold header")
    return fields


def reply_subject(headers: bytes) -> str | None:
    """Return the subject that an author named for the outcome, where it is one that is honoured.

    Also of headers that are refused: their author is told so.
    """
    named = _REPLY_LINE.findall(headers) if headers else []
    if len(named) != 1 or len(named[0]) > REPLY_CHARS_MAX or not _REPLY.fullmatch(named[0]):
        return None
    return str(named[0], "ascii")


def envelope_of(fields: dict[str, Json], limits: Limits) -> Envelope:
    """Take fields that have been read strictly as an event in the native form."""
    event_id = fields.get("id")
    if event_id is not None and not (type(event_id) is str and 1 <= len(event_id) <= limits.id_chars):
        event_id = None
    # Past the generated constructor: this runs for every event.
    return tuple.__new__(Envelope, (fields, event_id))


def content_of(envelope: Envelope) -> bytes:
    """Return what tells a retry from another event: canonical bytes of all fields but `id` (and `v`, if 1)."""
    fields = envelope.fields.copy()
    fields.pop("id", None)
    if canonical.identical(fields.get("v"), 1):
        del fields["v"]
    return canonical.dumps(fields)


def _body_fields(ours: dict[str, str], value: Json) -> dict[str, Json]:
    attributes = cloud_attributes(ours)
    media = media_type(ours.get("content-type", ""))
    if media == CLOUD_EVENT:
        event = _native(value)
        _agree(event, attributes, "ce header")
        return _from_cloud_event(event, _data_media(event))
    if not attributes:
        return _by_media(media, value)
    data_media = _data_media(attributes)
    if media and data_media and media != data_media:
        message = "Content-Type and ce-datacontenttype differ"
        raise Refused("contradictory", message, field="datacontenttype", shape=shape_of(data_media))
    return _from_cloud_event({**attributes, "data": value}, media or data_media)


def _by_media(media: str, value: Json) -> dict[str, Json]:
    if media == JSON_PATCH:
        return {"patch": value}
    return {"merge": value} if media == MERGE_PATCH else _native(value)


def _native(value: Json) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise Refused("bad_event", "an event is a JSON object", field="body", shape=shape_of(value))
    return value


def _from_cloud_event(event: dict[str, Json], data_media: str) -> dict[str, Json]:
    if "data" not in event:
        raise Refused("bad_event", "a CloudEvent needs data that is JSON", field="data", shape="nothing")
    for name in ("specversion", "id", "source", "type"):
        _check_attribute(name, event.get(name))
    if event["specversion"] != "1.0":
        message = "CloudEvents 1.0 is taken"
        raise Refused("bad_event", message, field="specversion", shape="another version")
    fields = _by_media(data_media, event["data"])
    said = {"id": f"{event['source']}|{event['id']}", "type": event["type"]}
    # In CloudEvents' JSON, null is as good as nothing.
    if event.get("time") is not None:
        said["occurred_at"] = event["time"]
    _agree(fields, said, "CloudEvents attribute")
    return fields


def _data_media(attributes: dict[str, Json]) -> str:
    value = attributes.get("datacontenttype")
    if value is None:
        return ""
    _check_attribute("datacontenttype", value)
    return media_type(value)


def _check_attribute(name: str, value: Json) -> None:
    if not isinstance(value, str) or not value:
        raise Refused("bad_event", "a CloudEvent needs it, as a string", field=name, shape=shape_of(value))


def _agree(fields: dict[str, Json], others: dict[str, Json], source: str) -> None:
    """Add what the other source says; where both say a field, they must agree."""
    for name, value in others.items():
        if name in fields and not canonical.equal(fields[name], value):
            raise Refused("contradictory", f"body and {source} differ", field=name, shape=shape_of(value))
        fields.setdefault(name, value)


def _too_large(reason: str, field: str, found: int, limit: int) -> Refused:
    return Refused(reason, f"at most {limit} bytes", field=field, shape=f"{found} bytes")
