"""Read what a live request asks for: its subscriptions, where it continues, and whether it streams or polls.

Used by `refold.gateway.live.routes`, and by `refold.gateway.app` to tell streams from other requests.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, NamedTuple

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.types import Scope

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.stream import check_document, check_name
from refold.gateway.requests import (
    NoQuery,
    Version,
    check_parameters,
    document_name,
    header,
    query_pairs,
    read_query,
    seconds,
    unrepeated,
    whole_number,
)
from refold.gateway.responses import JSON, Problem
from refold.live import INTERVALS, SUBSCRIPTIONS_MAX, Mode, Subscription

EVENT_STREAM: Final = "text/event-stream"

POLL_SECONDS: Final = 30.0
POLL_SECONDS_MAX: Final = 60
"""How long a long poll waits: by default, and at most."""

DEPTH_MAX: Final = 1_000
TYPE_CHARACTERS_MAX: Final = 256

_OF_MODE: Final = {
    Mode.patch: frozenset({"path", "depth", "ops", "merge"}),
    Mode.values: frozenset({"path", "depth"}),
    Mode.heads: frozenset({"prefix", "type"}),
    Mode.changes: frozenset({"prefix", "type"}),
}
"""The fields that a mode has, besides those that all have."""

_OF_ALL: Final = frozenset({"namespace", "document", "mode", "after", "interval", "cursor", "wait"})
_OF_DOCUMENT: Final = frozenset({Mode.patch, Mode.values, Mode.changes})
_OF_NAMESPACE: Final = frozenset({Mode.heads, Mode.changes})


def _check_flag(given: object) -> object:
    if isinstance(given, str) and given not in ("true", "false"):
        raise PydanticCustomError("flag", "true or false")
    return given


class Fields(NoQuery):
    """The fields of a subscription, but for what it is to."""

    path: str = ""
    depth: Annotated[int, whole_number(0, DEPTH_MAX)] | None = None
    mode: str | None = None
    ops: Literal["rfc6902", "native"] = "rfc6902"
    after: Version | None = None
    interval: Annotated[int, whole_number(0, INTERVALS[-1])] = 0
    merge: Annotated[bool, BeforeValidator(_check_flag)] = True
    type: Annotated[str, Field(min_length=1, max_length=TYPE_CHARACTERS_MAX)] | None = None


class NamedFields(Fields):
    """A subscription in a `sub` parameter: to a document, to the documents with a prefix, or to a namespace."""

    namespace: str
    document: str | None = None
    prefix: str = ""


class Position(NoQuery):
    """Where a client continues, and how long it waits."""

    cursor: str | None = None
    wait: Annotated[float, seconds(POLL_SECONDS_MAX)] | None = None


class DocumentQuery(Fields, Position):
    """A subscription to the document of the path."""


class Asked(NamedTuple):
    """What a request asks for. It is a reconnect where a browser says by itself where it continues."""

    subscriptions: list[Subscription]
    cursor: str | None
    is_reconnect: bool
    wait_seconds: float


def read_document(request: Request) -> Asked:
    """Read a subscription to one document. Raises `Problem` and `Refused`."""
    namespace, document = document_name(request)
    query = read_query(request, DocumentQuery)
    return _asked(request, query, [_subscription(query, namespace, document)])


def read_all(request: Request) -> Asked:
    """Read several subscriptions, each a `sub` parameter in JSON. Raises `Problem` and `Refused`."""
    pairs = query_pairs(request)
    texts = [text for name, text in pairs if name == "sub"]
    query = check_parameters(unrepeated([pair for pair in pairs if pair[0] != "sub"]), Position)
    if not texts:
        detail = "sub: is required, a subscription in JSON; it may be given several times"
        raise Problem(422, "bad_parameter", detail, field="sub")
    if len(texts) > SUBSCRIPTIONS_MAX:
        rule = f"1 to {SUBSCRIPTIONS_MAX} subscriptions"
        raise Refused("too_many_subscriptions", rule, field="sub", shape=str(len(texts)))
    return _asked(request, query, [_named(text, f"sub[{number}]") for number, text in enumerate(texts)])


def is_event_stream(scope: Scope) -> bool:
    """Tell whether a request is for a live stream: not where the client accepts JSON and no events."""
    path: bytes = scope["raw_path"]
    if not ((path.endswith(b"/live") and path.count(b"/") == 4) or path == b"/live/v1"):
        return False
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1")
    types = {each.partition(";")[0].strip().lower() for each in accepted.split(",")}
    return EVENT_STREAM in types or JSON not in types


def _asked(request: Request, position: Position, subscriptions: list[Subscription]) -> Asked:
    is_stream = is_event_stream(request.scope)
    if is_stream and position.wait is not None:
        detail = f"wait: for a long poll, which has the header Accept: {JSON}"
        raise Problem(422, "contradictory", detail, field="wait")
    has_after = any(each.after is not None for each in subscriptions)
    if position.cursor is not None and has_after:
        raise Problem(422, "contradictory", "after: a cursor says it already", field="after")
    returned = header(request, b"last-event-id")
    return Asked(
        subscriptions=subscriptions,
        cursor=returned or position.cursor,
        is_reconnect=bool(returned),
        wait_seconds=POLL_SECONDS if position.wait is None else position.wait,
    )


def _named(text: str, within: str) -> Subscription:
    try:
        given = json_text.loads(text.encode())
        if not isinstance(given, dict):
            raise Refused("bad_parameter", "a JSON object", field="", shape=json_text.shape_of(given))
        fields = check_parameters(given, NamedFields, within=within)
        check_name(fields.namespace, "namespace")
        if fields.document is not None:
            check_document(fields.document, "document")
        return _subscription(fields, fields.namespace, fields.document, fields.prefix, within=f"{within}.")
    except Refused as refused:
        field = f"{within}.{refused.field}".rstrip(".")
        raise Refused(refused.reason, refused.message, field=field, shape=refused.shape) from None


def _subscription(
    fields: Fields, namespace: str, document: str | None, prefix: str = "", *, within: str = ""
) -> Subscription:
    what, modes = ("namespace", _OF_NAMESPACE) if document is None else ("document", _OF_DOCUMENT)
    mode = {each.value: each for each in modes}.get(fields.mode or _default_mode(fields, document).value)
    if mode is None:
        detail = f"{within}mode: a {what} is watched by {', '.join(sorted(modes))}"
        raise Problem(422, "bad_mode", detail, field=f"{within}mode")
    if document is not None and prefix:
        detail = f"{within}prefix: a document or a prefix, not both"
        raise Problem(422, "contradictory", detail, field=f"{within}prefix")
    given = {name for name in fields.model_fields_set if getattr(fields, name) not in (None, "")}
    if foreign := given - _OF_MODE[mode] - _OF_ALL:
        name = min(foreign)
        if document is None and name in _OF_MODE[Mode.patch]:
            detail = f"{within}{name}: of the subscription to a document, not to a namespace"
            raise Problem(422, "contradictory", detail, field=f"{within}{name}")
        raise Problem(422, "contradictory", f"{within}{name}: not of mode {mode}", field=f"{within}{name}")
    return Subscription(
        namespace=namespace,
        document=document,
        prefix=prefix,
        path=fields.path,
        depth=fields.depth,
        mode=mode,
        is_native=fields.ops == "native",
        after=fields.after,
        interval=fields.interval,
        is_merged=fields.merge,
        type=fields.type,
    )


def _default_mode(fields: Fields, document: str | None) -> Mode:
    if document is None:
        return Mode.heads
    return Mode.values if "*" in fields.path.split("/") else Mode.patch
