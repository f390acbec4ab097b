"""The AsyncAPI document: what anyone may publish and hear on the log's and the notices' subjects.

Written out by `refold.wiring.schemas`. The control subject is FastStream's own description; the document's channels
are put in by hand, for a subscriber made only to be described would really take their traffic.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from faststream.nats import NatsBroker
from faststream.specification.asyncapi import AsyncAPI

from refold.core.fold import EVENT_BYTES_MAX, HEADERS_BYTES_MAX
from refold.core.headers import CLOUD_EVENT, JSON_PATCH, MERGE_PATCH
from refold.core.limits import NAME_CHARS_MAX
from refold.log import PROGRESS_SUBJECT
from refold.projector.service import answer_control

Description = dict[str, Any]

HOST: Final = "127.0.0.1:4222"
_SERVER: Final = "development"
"""FastStream's name for the server, which its channels refer to."""


def asyncapi_document(version: str) -> Description:
    """Make the document."""
    control = _control()
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Refold", "version": version, "description": _ABOUT},
        "defaultContentType": "application/json",
        "servers": {_SERVER: _server()},
        "channels": _channels() | control["channels"],
        "operations": _OPERATIONS | control["operations"],
        "components": {
            "messages": _messages() | control["components"]["messages"],
            "schemas": _SCHEMAS | control["components"]["schemas"],
            "parameters": _PARAMETERS,
            "securitySchemes": _USERS,
        },
    }


def _control() -> Description:
    """Return FastStream's own document of the projector's service."""
    broker = NatsBroker(f"nats://{HOST}", logger=None)
    answer_control(broker, dict)
    made = AsyncAPI(broker, schema_version="3.0.0").to_specification().to_jsonable()
    # Names of components take no colon, which FastStream writes.
    text = orjson.dumps(made).replace(b":SubscribeMessage", b".SubscribeMessage")
    document: Description = orjson.loads(text.replace(b',"bindingVersion":"custom"', b""))
    return document


def _server() -> Description:
    return {
        "host": HOST,
        "protocol": "nats",
        "description": "Who gives no name is the author.",
        "security": [_to("securitySchemes", name) for name in _USERS],
    }


def _channels() -> Description:
    return {
        "state": {
            "address": "state.{namespace}.{document}",
            "title": "A document's events",
            "description": _STATE,
            "messages": {name: _to("messages", name) for name in _EVENTS},
            "parameters": _NAMES,
        },
        "outcomes": {
            "address": None,
            "title": "Outcomes, on a subject of the author's own",
            "description": _OUTCOMES,
            "messages": {"outcome": _to("messages", "outcome")},
        },
        "change": {
            "address": "change.{namespace}.{document}",
            "title": "A document's changes",
            "description": _CHANGE,
            "messages": {"change": _to("messages", "change")},
            "parameters": _NAMES,
        },
        "progress": {
            "address": PROGRESS_SUBJECT,
            "title": "How far the log has been folded and committed",
            "description": "After each commit, and each second as a sign of life.",
            "messages": {"progress": _to("messages", "progress")},
        },
    }


def _messages() -> Description:
    others = {
        "outcome": _message("Outcome", _schema("outcome.schema.json")),
        "change": _message("Change", _schema("change.schema.json")),
        "progress": _message("Progress", {"$ref": "#/components/schemas/Progress"}),
    }
    events = {
        name: _message(title, payload, headers, content_type)
        for name, (title, payload, headers, content_type) in _EVENTS.items()
    }
    return events | others


def _message(
    title: str, payload: Description, headers: str = "", content_type: str = "application/json"
) -> Description:
    described = {"title": title, "contentType": content_type, "payload": payload}
    return described | ({"headers": {"$ref": f"#/components/schemas/{headers}"}} if headers else {})


def _schema(reference: str) -> Description:
    return {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": {"$ref": reference}}


def _to(kind: str, name: str) -> Description:
    return {"$ref": f"#/components/{kind}/{name}"}


def _text(description: str, **more: Any) -> Description:
    return {"type": "string", "description": description, **more}


_ABOUT: Final = (
    "JSON documents as the fold of an immutable log. Anyone publishes events on `state.…`, gets the outcome of their "
    "fold on a subject of his own, and hears every document's changes on `change.…`."
)
_STATE: Final = (
    f"Publish to change the document: a body of at most {EVENT_BYTES_MAX} bytes, headers of at most "
    f"{HEADERS_BYTES_MAX}. A request (a publish with a reply subject of NATS) is answered by the broker with the "
    'event\'s place in the log, `{"stream":"STATE","seq":N}`: it is durable. An event that breaks a rule is stored '
    "and folded as `rejected`."
)
_OUTCOMES: Final = (
    "The subject that an event's `Refold-Reply` header names, under `_INBOX.` or `refold.reply.`; core NATS, at most "
    "once, after the commit, only for events under a minute old."
)
_CHANGE: Final = (
    "Subscribe to hear of every version; wildcards are NATS's (`change.acme.*`). Core NATS, at most once: versions "
    "are contiguous, and a gap is filled from history (HTTP)."
)
_NAMED: Final = f"1 to {NAME_CHARS_MAX} of A-Z a-z 0-9 _ - : = @ + ~"
_PARAMETERS: Final = {
    "namespace": {"description": f"{_NAMED}, not beginning with _.", "examples": ["acme"]},
    "document": {"description": f"{_NAMED}.", "examples": ["order-1"]},
}
_NAMES: Final = {name: _to("parameters", name) for name in _PARAMETERS}
_USERS: Final = {
    "author": {
        "type": "userPassword",
        "description": "Publishes events, hears changes and outcomes. Embedded: whoever gives no name.",
    },
    "gateway": {"type": "userPassword", "description": "Also hears of progress, and asks the projector."},
}
_OPERATIONS: Final = {
    "foldEvent": {
        "action": "receive",
        "channel": {"$ref": "#/channels/state"},
        "summary": "Store an event, fold it, and tell its author what became of it.",
        "reply": {
            "address": {"location": "$message.header#/Refold-Reply"},
            "channel": {"$ref": "#/channels/outcomes"},
        },
    },
    "tellChange": {
        "action": "send",
        "channel": {"$ref": "#/channels/change"},
        "summary": "Tell a document's new version and the patch that made it.",
    },
    "tellProgress": {
        "action": "send",
        "channel": {"$ref": "#/channels/progress"},
        "summary": "Tell how far the log has been folded and committed.",
        "security": [_to("securitySchemes", "gateway")],
    },
}
_FIELD_HEADERS: Final = {
    "Refold-Id": _text("The event's own id.", minLength=1, maxLength=128),
    "Refold-V": _text("The envelope's version.", const="1"),
    "Refold-Base": _text("The version that the author saw.", pattern="^(0|[1-9][0-9]{0,18})$"),
    "Refold-On-Conflict": _text("What to do when the document has moved past the base."),
    "Refold-Type": _text("A name for what happened."),
    "Refold-Actor": _text("Who, as claimed."),
    "Refold-Occurred-At": _text("When it happened, RFC 3339."),
    "Refold-Correlation-Id": _text("As event stores use it."),
    "Refold-Causation-Id": _text("As event stores use it."),
    "Refold-Meta": _text("A JSON object, kept and shown in history.", contentMediaType="application/json"),
    "Refold-Reply": _text("The subject for the outcome.", pattern="^(_INBOX|refold\\.reply)(\\.[^ .*>]+)+$"),
    "traceparent": _text("Carried on with the event (W3C)."),
}
_CLOUD: Final = {
    "specversion": _text("1.0", const="1.0"),
    "id": _text("The event's id is `source|id`.", minLength=1),
    "source": _text("Who made it.", minLength=1),
    "type": _text("The event's type.", minLength=1),
    "time": _text("When it happened, RFC 3339."),
    "datacontenttype": _text(f"{JSON_PATCH}, {MERGE_PATCH}, or JSON: the native body."),
}
_CLOUD_NEEDS: Final = ["specversion", "id", "source", "type"]


def _media(media_type: str) -> Description:
    literal = media_type.replace("+", "[+]")
    return _text("Parameters are ignored.", pattern=rf"^{literal}[ \t]*(;.*)?$")


def _headers(description: str, required: list[str], **properties: Description) -> Description:
    return {
        "type": "object",
        "description": f"{description} Names compare without case; one of ours may stand once.",
        "properties": {**properties, **_FIELD_HEADERS},
        "required": required,
    }


_SCHEMAS: Final = {
    "Headers": _headers(
        "A field may stand in the body or in its header; said twice, it must be the same.",
        [],
        **{"Content-Type": _text("Left out, or any that is not one of the others': the native body.")},
    ),
    "PatchHeaders": _headers(
        "The event's other fields.", ["Content-Type"], **{"Content-Type": _media(JSON_PATCH)}
    ),
    "MergeHeaders": _headers(
        "The event's other fields.", ["Content-Type"], **{"Content-Type": _media(MERGE_PATCH)}
    ),
    "CloudEventHeaders": _headers(
        "A structured CloudEvent.", ["Content-Type"], **{"Content-Type": _media(CLOUD_EVENT)}
    ),
    "BinaryCloudEventHeaders": _headers(
        "A binary CloudEvent; values are percent-encoded.",
        [f"ce-{name}" for name in _CLOUD_NEEDS],
        **{"Content-Type": _text("The data's, as ce-datacontenttype.")},
        **{f"ce-{name}": described for name, described in _CLOUD.items()},
    ),
    "CloudEvent": {
        "type": "object",
        "properties": {**_CLOUD, "data": {"description": "The native body, or a patch."}},
        "required": [*_CLOUD_NEEDS, "data"],
    },
    "Progress": {
        "type": "object",
        "properties": {
            "sequence": {"type": "integer", "minimum": 0, "description": "Everything up to here is folded."}
        },
        "required": ["sequence"],
        "additionalProperties": False,
    },
}
_PATCH: Final = _schema("event.schema.json#/properties/patch")
_EVENTS: Final = {
    "event": ("Event", _schema("event.schema.json"), "Headers", "application/json"),
    "jsonPatch": ("A bare JSON Patch", _PATCH, "PatchHeaders", JSON_PATCH),
    "mergePatch": (
        "A bare merge patch",
        _schema("event.schema.json#/properties/merge"),
        "MergeHeaders",
        MERGE_PATCH,
    ),
    "cloudEvent": (
        "A structured CloudEvent",
        {"$ref": "#/components/schemas/CloudEvent"},
        "CloudEventHeaders",
        CLOUD_EVENT,
    ),
    "binaryCloudEvent": (
        "A binary CloudEvent",
        {"description": "The native body, or a patch."},
        "BinaryCloudEventHeaders",
        "application/json",
    ),
}
"""By name: title, payload, headers and content type of what may be published."""
