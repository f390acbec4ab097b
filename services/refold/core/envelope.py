"""The envelope: an event in any published form (native, bare patch, CloudEvents) opened to one set of fields.

Used before any field is checked, so that an event that breaks a rule still carries its `id`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.json_text import INTEGER_MIN, Json, shape_of
from refold.core.limits import Limits

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
CLOUD_EVENT: Final = "application/cloudevents+json"


_REPLY_LINE: Final = re.compile(
    rb"(?:\A|(?<=\r\n))[ \t]*refold-reply[ \t]*:[ \t]*(.*?)[ \t]*(?=\r\n)", re.IGNORECASE
)
REPLY_CHARS_MAX: Final = 512
"""A `Refold-Reply` subject: over 4,096 the broker would cut the connection that answers."""

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
    fields = json_text.loads(body, limits.text_depth)
    return envelope_of(fields if type(fields) is dict else _native(fields), limits)


def _with_headers(headers: bytes, body: bytes, limits: Limits) -> dict[str, Json]:
    if len(headers) > limits.headers_bytes:
        raise _too_large("headers_too_large", "headers", len(headers), limits.headers_bytes)
    ours = read_headers(headers)
    fields = _body_fields(ours, json_text.loads(body, limits.text_depth))
    _agree(fields, fields_of(ours, limits), "Refold header")
    return fields


def id_of(headers: bytes, body: bytes, limits: Limits) -> str | None:
    """Return the valid id that an event carries; None where it has none or cannot be opened."""
    try:
        return open_envelope(headers, body, limits).id
    except Refused:
        return None


def reply_subject(headers: bytes) -> str | None:
    """Return the subject that an author named for the outcome, where it is one that is honoured.

    Also of headers that are refused: the author gets the reason.
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
    if json_text.identical(fields.get("v"), 1):
        del fields["v"]
    return json_text.dumps(fields)


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
        if name in fields and not json_text.equal(fields[name], value):
            raise Refused("contradictory", f"body and {source} differ", field=name, shape=shape_of(value))
        fields.setdefault(name, value)


def _too_large(reason: str, field: str, found: int, limit: int) -> Refused:
    return Refused(reason, f"at most {limit} bytes", field=field, shape=f"{found} bytes")


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


def fields_of(ours: dict[str, str], limits: Limits) -> dict[str, Json]:
    """Read the event's fields that stand in `Refold-*` headers, `Refold-Reply` left out."""
    fields: dict[str, Json] = {}
    for name, value in ours.items():
        if name in _TEXT_FIELDS:
            fields[_TEXT_FIELDS[name]] = value
        elif name in _INTEGER_FIELDS:
            fields[_INTEGER_FIELDS[name]] = _integer(name, value)
        elif name in _JSON_FIELDS:
            fields[_JSON_FIELDS[name]] = json_text.loads(value.encode(), limits.text_depth)
        elif name.startswith("refold-") and name != "refold-reply":
            raise Refused("unknown_field", "no such Refold header", field=name)
    return fields


def cloud_attributes(ours: dict[str, str]) -> dict[str, Json]:
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
