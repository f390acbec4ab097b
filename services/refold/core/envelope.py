"""The envelope: an event in any published form (native, bare patch, CloudEvents) opened to one set of fields.

No field is checked yet, so that an event that breaks a rule still has its `id`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote

from refold.core import json_text
from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.json_text import INTEGER_MIN, Json, shape_of

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
CLOUD_EVENT: Final = "application/cloudevents+json"

REPLY_HEADER: Final = "refold-reply"
"""Names the subject for the outcome; no field of the event."""

_REPLY_LINE: Final = re.compile(
    rb"(?:\A|(?<=\r\n))[ \t]*refold-reply[ \t]*:[ \t]*(.*?)[ \t]*(?=\r\n)", re.IGNORECASE
)
REPLY_CHARS_MAX: Final = 512
"""A `Refold-Reply` subject; over 4,096 the broker would cut the connection that answers."""

_REPLY: Final = re.compile(rb"(_INBOX|refold\.reply)(\.[!-)+-\-/-=?-~]+)+")
"""Printable ASCII tokens without the wildcards `*` and `>`."""


class Envelope(NamedTuple):
    """An event's fields, and its `id` where that is valid."""

    fields: dict[str, Json]
    id: str | None


def open_envelope(headers: bytes, body: bytes, limits: Limits) -> Envelope:
    """Open any form. `headers` are the author's stored lines. Raises `Refused`."""
    if len(body) > limits.event_bytes:
        raise _too_large("event_too_large", "body", body, limits.event_bytes)
    if headers:
        return envelope_of(_with_headers(headers, body, limits), limits)
    fields = json_text.loads(body, limits.text_depth)
    return envelope_of(fields if type(fields) is dict else _native(fields), limits)


def has_form(headers: bytes) -> bool:
    """Tell whether header lines may say that a body is other than the native form; a false True is possible."""
    lowered = headers.lower()
    return b"content-type" in lowered or b"ce-" in lowered


def accepted_fields(headers: bytes, body: bytes) -> dict[str, Json]:
    """Return the fields in the body of an event that was accepted once, without the checks and its headers' fields.

    A negative zero is kept, which `open_envelope` normalises.
    """
    return _body_fields(read_headers(headers), json_text.reread(body))


def _with_headers(headers: bytes, body: bytes, limits: Limits) -> dict[str, Json]:
    if len(headers) > limits.headers_bytes:
        raise _too_large("headers_too_large", "headers", headers, limits.headers_bytes)
    ours = read_headers(headers)
    fields = _body_fields(ours, json_text.loads(body, limits.text_depth))
    _merge(fields, fields_of(ours, limits), "Refold header")
    return fields


def _too_large(reason: str, field: str, data: bytes, bytes_max: int) -> Refused:
    return Refused(reason, f"at most {bytes_max} bytes", field=field, shape=f"{len(data)} bytes")


def id_of(headers: bytes, body: bytes, limits: Limits) -> str | None:
    """Return an event's valid id; None where it has none or cannot be opened."""
    try:
        return open_envelope(headers, body, limits).id
    except Refused:
        return None


def reply_subject(headers: bytes) -> str | None:
    """Return the subject that an author named for the outcome, where an outcome may be sent to it.

    Refused headers may have one too: the author gets the reason.
    """
    named = _REPLY_LINE.findall(headers) if headers else []
    if len(named) != 1 or len(named[0]) > REPLY_CHARS_MAX or not _REPLY.fullmatch(named[0]):
        return None
    return str(named[0], "ascii")


def envelope_of(fields: dict[str, Json], limits: Limits) -> Envelope:
    """Return the envelope of fields that were read strictly."""
    event_id = fields.get("id")
    if event_id is not None and not (type(event_id) is str and 1 <= len(event_id) <= limits.id_chars):
        event_id = None
    # The generated constructor is slower, and this runs for every event.
    return tuple.__new__(Envelope, (fields, event_id))


def content_of(fields: dict[str, Json]) -> bytes:
    """Return the content by which a retry is known: canonical bytes of all fields but `id` (and `v`, if 1)."""
    fields = fields.copy()
    fields.pop("id", None)
    if "v" in fields and json_text.identical(fields["v"], 1):
        del fields["v"]
    return json_text.dumps(fields)


def _body_fields(ours: dict[str, str], value: Json) -> dict[str, Json]:
    attributes: dict[str, Json] = cloud_attributes(ours)
    media = media_type(ours.get("content-type", ""))
    if media == CLOUD_EVENT:
        event = _native(value)
        _merge(event, attributes, "ce header")
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
        _attribute(name, event.get(name))
    if event["specversion"] != "1.0":
        message = "must be 1.0"
        raise Refused("bad_event", message, field="specversion", shape="another version")
    fields = _by_media(data_media, event["data"])
    attributes = {"id": f"{event['source']}|{event['id']}", "type": event["type"]}
    # In CloudEvents' JSON, a null attribute is an absent one.
    if event.get("time") is not None:
        attributes["occurred_at"] = event["time"]
    _merge(fields, attributes, "CloudEvents attribute")
    return fields


def _data_media(attributes: dict[str, Json]) -> str:
    value = attributes.get("datacontenttype")
    return "" if value is None else media_type(_attribute("datacontenttype", value))


def _attribute(name: str, value: Json) -> str:
    if not isinstance(value, str) or not value:
        raise Refused("bad_event", "a CloudEvent needs it, as a string", field=name, shape=shape_of(value))
    return value


def _merge(fields: dict[str, Json], others: dict[str, Json], source: str) -> None:
    """Add another source's fields; a field that both have must agree."""
    for name, value in others.items():
        if name in fields and not json_text.equal(fields[name], value):
            raise Refused("contradictory", f"body and {source} differ", field=name, shape=shape_of(value))
        fields.setdefault(name, value)


_INTEGER: Final = re.compile(r"-?(0|[1-9]\d{0,18})", re.ASCII)


def _headers_of(*names: str) -> dict[str, str]:
    return {f"refold-{name.replace('_', '-')}": name for name in names}


_TEXTS: Final = _headers_of(
    "id",
    "type",
    "actor",
    "occurred_at",
    "correlation_id",
    "causation_id",
    "on_conflict",
    "principal",
    "session",
)
_INTEGERS: Final = _headers_of("v", "base", "reverts", "resolves")
_JSON: Final = _headers_of("meta", "all_or_nothing", "txn")


def read_headers(headers: bytes) -> dict[str, str]:
    """Read `Content-Type`, `Refold-*` and `ce-*` by lower-case name; other headers belong to the transport."""
    ours: dict[str, str] = {}
    for line in headers.split(b"\r\n"):
        if not line:
            continue
        raw_name, colon, raw_value = line.partition(b":")
        if not colon:
            shape = f"{len(line)} bytes"
            raise Refused("bad_header", "a header is `Name: value`", field="headers", shape=shape)
        lowered = raw_name.strip(b" \t").lower()
        if not lowered.startswith((b"refold-", b"ce-")) and lowered != b"content-type":
            continue
        name, value = _text(lowered, "a header's name"), _text(raw_value.strip(b" \t"), "a header's value")
        if name in ours:
            raise Refused("repeated_header", "a header may be given once", field=name)
        ours[name] = value
    return ours


def media_type(content_type: str) -> str:
    """Return a content type without its parameters, lower-case."""
    return content_type.partition(";")[0].strip(" \t").lower()


def fields_of(ours: dict[str, str], limits: Limits) -> dict[str, Json]:
    """Read the event's fields that are in `Refold-*` headers; `Refold-Reply` is none."""
    fields: dict[str, Json] = {}
    for name, value in ours.items():
        if name in _TEXTS:
            fields[_TEXTS[name]] = value
        elif name in _INTEGERS:
            fields[_INTEGERS[name]] = _integer(name, value)
        elif name in _JSON:
            fields[_JSON[name]] = json_text.loads(value.encode(), limits.text_depth)
        elif name.startswith("refold-") and name != REPLY_HEADER:
            raise Refused("unknown_field", "no such Refold header", field=name)
    return fields


def cloud_attributes(ours: dict[str, str]) -> dict[str, str]:
    """Read a CloudEvent's attributes from its `ce-*` headers (percent-encoded)."""
    attributes: dict[str, str] = {}
    for name, value in ours.items():
        if name.startswith("ce-"):
            try:
                attributes[name[3:]] = unquote(value, errors="strict")
            except UnicodeDecodeError:
                raise Refused("bad_header", "percent-encoded bytes must be UTF-8", field=name) from None
    return attributes


def _integer(name: str, value: str) -> int:
    # Below the least integer there is nothing to write in canonical bytes; 19 digits end short of the greatest.
    if not _INTEGER.fullmatch(value) or int(value) < INTEGER_MIN:
        shape = f"string of {len(value)} characters"
        raise Refused("bad_field", "must be an integer", field=name, shape=shape)
    return int(value)


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        shape = f"{len(raw)} bytes"
        raise Refused("bad_header", f"{what} must be UTF-8", field="headers", shape=shape) from None
