"""Read what a request asks for: names, query parameters, the event's fields in headers, a bounded body.

Used by the routes. Headers that carry event fields are read by the same code that reads them from the log.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from decimal import Decimal
from time import time_ns
from typing import Annotated, Final, Literal, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from refold.core import json_text
from refold.core.envelope import fields_of, media_type, read_headers
from refold.core.errors import Refused
from refold.core.event import VERSION_MAX
from refold.core.fold import EVENT_BYTES_MAX, NEWEST
from refold.core.json_text import Json
from refold.core.stream import check_document, check_name
from refold.core.timestamp import parse_time
from refold.gateway.context import context_of
from refold.gateway.encoding import CODINGS, BodyDecoder
from refold.gateway.inflight import deadline_in, hold_body, waiting
from refold.gateway.responses import Problem
from refold.gateway.tracing import TRACE, caller_context
from refold.store.layers.sources import TERMS

READ_SECONDS: Final = 5.0
"""How long a read waits for the projection by default."""

WAIT_SECONDS_MAX: Final = 300
"""The longest that a request may ask to wait."""

ANSWER_ITEMS_MAX: Final = 1_000

DRAIN_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much of a body that is too large is read and dropped, so that its sender sees the answer."""

# --- Headers, names and query parameters ----------------------------------------------------------------


def header(request: Request, name: bytes) -> str | None:
    """Return a header's value, the first of several; its name is in lower case."""
    scope = request.scope
    headers: dict[bytes, bytes] | None = scope.get("refold.headers")
    if headers is None:
        headers = scope["refold.headers"] = dict(reversed(scope["headers"]))
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


def has_repeated(request: Request) -> bool:
    """Return whether any header is given more than once."""
    return len(request.scope["refold.headers"]) < len(request.scope["headers"])


def document_name(request: Request) -> tuple[str, str]:
    """Return namespace and document. Raises `Refused` where one is no name."""
    namespace, document = request.path_params["namespace"], request.path_params["document"]
    check_name(namespace, "namespace")
    check_document(document, "document")
    return namespace, document


def path_sequence(request: Request) -> int:
    text: str = request.path_params["sequence"]
    if not _INTEGER.fullmatch(text) or not 0 <= int(text) <= VERSION_MAX:
        raise Problem(422, "bad_parameter", f"sequence: {_INTEGER_RULE}", field="sequence")
    return int(text)


_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]{0,39}")
_INTEGER_RULE: Final = "a whole number from 0 in plain digits, such as 12"
_SECONDS: Final = re.compile(r"\d{1,9}(\.\d{1,40})?([eE][+-]?\d{1,3})?", re.ASCII)


def _number(pattern: re.Pattern[str], least: int, most: int, rule: str) -> BeforeValidator:
    """Refuse a number out of range, and a text that no language prints for one: `1.0`, ` 1`, `+1`, `01`, `1_0`."""

    def check(given: object) -> object:
        if isinstance(given, str):
            is_good = bool(pattern.fullmatch(given)) and least <= Decimal(given) <= most
        else:
            is_good = not isinstance(given, int | float) or least <= given <= most
        if not is_good:
            raise PydanticCustomError("number", rule)
        return given

    return BeforeValidator(check)


def whole_number(least: int, most: int) -> BeforeValidator:
    """Read a whole number in plain digits."""
    return _number(
        _INTEGER, least, most, f"a whole number from {least} to {most} in plain digits, such as 12"
    )


def seconds(most: int) -> BeforeValidator:
    """Read seconds, with a fraction or without."""
    return _number(_SECONDS, 0, most, f"seconds from 0 to {most}, such as 2.5")


Version = Annotated[int, _number(_INTEGER, 0, VERSION_MAX, _INTEGER_RULE)]
Limit = Annotated[int, whole_number(1, ANSWER_ITEMS_MAX)]
Timeout = Annotated[float, seconds(WAIT_SECONDS_MAX)]


class NoQuery(BaseModel):
    """No query parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PointQuery(NoQuery):
    """A point in the past, and how long to wait until it is folded."""

    at: str | None = None
    clock: Literal["recorded", "occurred"] | None = None
    sequence: Version | None = None
    timeout: Timeout = READ_SECONDS
    stale: Literal["true"] | None = None


def min_sequence(request: Request) -> int:
    """Read `Refold-Min-Sequence`: the highest sequence that the client was sent; 0 without it."""
    text = header(request, b"refold-min-sequence")
    if text is None:
        return 0
    if not _INTEGER.fullmatch(text) or not 0 <= int(text) <= VERSION_MAX:
        detail = f"Refold-Min-Sequence: {_INTEGER_RULE} (got {text[:40]!r})"
        raise Problem(422, "bad_parameter", detail, field="Refold-Min-Sequence")
    return int(text)


async def wait_for_consistency(
    request: Request, deadline: float, namespace: str | None = None, document: str | None = None
) -> None:
    """Wait until the projection has what this gateway and this client have received.

    That of the client is `Refold-Min-Sequence`, and all that is waited for where the request accepts an older store.
    Raises `TimedOut`, and `Problem` for a sequence after the log's end.
    """
    consistency = context_of(request).consistency
    sequence = min_sequence(request)
    if sequence:
        await consistency.refuse_future(sequence, "Refold-Min-Sequence")
        key = None if namespace is None or document is None else (namespace, document)
        await consistency.wait_for_sequence(sequence, deadline, key)
    terms = TERMS.get()
    if terms is None or not terms.allows_older:
        await consistency.wait_for_announced(deadline, namespace, document)


Query = TypeVar("Query", bound=NoQuery)


def read_query(request: Request, model: type[Query]) -> Query:
    """Read the query parameters; refuse an unknown, a repeated and an invalid one by name."""
    query = check_parameters(unrepeated(query_pairs(request)), model)
    terms = TERMS.get()
    if terms is not None and isinstance(query, PointQuery):
        terms.deadline, terms.allows_older = deadline_in(query.timeout), query.stale is not None
    return query


def query_pairs(request: Request) -> list[tuple[str, str]]:
    """Return the query parameters in their order."""
    return parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)


def unrepeated(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Return parameters by name; refuse a repeated one."""
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        detail = f"{repeated}: a query parameter may be given once"
        raise Problem(422, "repeated_parameter", detail, field=repeated)
    return given


def check_parameters(given: Mapping[str, Json], model: type[Query], *, within: str = "") -> Query:
    """Refuse an unknown and an invalid parameter by name; those that are JSON are members of the parameter `within`."""
    try:
        return model.model_validate(given, strict=bool(within))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = str(fault["loc"][-1]) if fault["loc"] else ""
        field = f"{within}.{name}" if within else name
        if fault["type"] == "extra_forbidden":
            detail = f"{field}: this resource has no such parameter"
            raise Problem(422, "unknown_parameter", detail, field=field) from error
        rule = "is required" if fault["type"] == "missing" else fault["msg"].replace("Input should", "must")
        raise Problem(422, "bad_parameter", f"{field}: {rule}", field=field) from error


def refuse_query(request: Request) -> None:
    """Refuse any query parameter."""
    if request.scope["query_string"]:
        read_query(request, NoQuery)


def read_time(text: str) -> int:
    """Read a time of a query, in nanoseconds."""
    try:
        return parse_time(text, now=time_ns())
    except Refused as refused:
        if not _LOST_PLUS.search(text):
            raise
        rule = f"{refused.message}; the + of an offset is written %2B in a URL"
        raise Refused(refused.reason, rule, field=refused.field, shape=refused.shape) from None


_LOST_PLUS: Final = re.compile(r":\d{2}(\.\d+)? \d{2}:\d{2}$")
"""A space where `+` stood: unencoded, it is a space in a query."""


def refuse_contradictions(query: PointQuery, *names: str) -> None:
    """Refuse more than one of these parameters, and a clock without a time."""
    given = [name for name in names if getattr(query, name) is not None]
    if len(given) > 1:
        raise Problem(422, "contradictory", f"{' and '.join(given)}: only one of them", field=given[1])
    if query.clock is not None and query.at is None:
        raise Problem(422, "contradictory", "clock: give `at` too, or leave it out", field="clock")


# --- The event's fields in headers, and how long to wait ------------------------------------------------

_NOT_FIELDS: Final = frozenset({b"refold-wait"})
_COMMITTED: Final = "committed"


def event_fields(request: Request) -> dict[str, Json]:
    """Read the event's fields from headers: `Refold-*`, and `Idempotency-Key` as its id."""
    lines: list[bytes] = []
    keys: list[bytes] = []
    for name, value in request.scope["headers"]:
        if name == b"idempotency-key":
            keys.append(value)
        elif name.startswith(b"refold-") and name not in _NOT_FIELDS:
            lines.append(name + b": " + value + b"\r\n")
        elif name.startswith(b"ce-"):
            raise Refused(
                "unknown_field", "CloudEvents are for NATS; here it is Refold-*", field=name.decode()
            )
    fields: dict[str, Json] = {}
    if lines:
        ours = read_headers(b"".join(lines))
        if "refold-reply" in ours:
            raise Refused("unknown_field", "over HTTP the response is the reply", field="refold-reply")
        fields = fields_of(ours, NEWEST.limits)
    if len(keys) > 1:
        raise Refused("repeated_header", "a header may be given once", field="idempotency-key")
    if keys:
        event_id = _text(keys[0])
        if fields.setdefault("id", event_id) != event_id:
            raise Refused("contradictory", "Idempotency-Key and Refold-Id differ", field="id")
    return fields


def carried_headers(request: Request) -> tuple[tuple[str, str], ...]:
    """Return the tracing headers that go into the log with the event: the context of its `send`, else the caller's."""
    trace = TRACE.get()
    context = caller_context(request.scope["headers"]) if trace is None else trace.send
    return () if context is None else context.headers


class Wait(NamedTuple):
    """How long a write waits for its outcome, and whether for the projection's commit of it, too."""

    seconds: float
    is_for_commit: bool


def read_wait(request: Request, default_seconds: float) -> Wait:
    """Read `Refold-Wait`: `SECONDS`, `committed`, or `SECONDS; committed`."""
    text = header(request, b"refold-wait")
    if text is None:
        return Wait(default_seconds, is_for_commit=False)
    seconds, separator, word = text.partition(";")
    if text == _COMMITTED:
        return Wait(default_seconds, is_for_commit=True)
    is_valid = _SECONDS.fullmatch(seconds) and float(seconds) <= WAIT_SECONDS_MAX
    if not is_valid or (separator and word.strip() != _COMMITTED):
        rule = f"seconds from 0 to {WAIT_SECONDS_MAX}"
        if not _SECONDS.fullmatch(seconds):
            rule += ", `committed`, or both, such as `2.5; committed`"
        raise Problem(422, "bad_parameter", f"Refold-Wait: {rule} (got {text[:40]!r})", field="Refold-Wait")
    return Wait(float(seconds), is_for_commit=bool(separator))


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused("bad_header", "a header's value must be UTF-8", field="idempotency-key") from None


# --- Bodies ---------------------------------------------------------------------------------------------

_CLOSE: Final = {"Connection": "close"}
"""The rest of the body cannot be distinguished from a next request on the same connection."""


def check_media_type(request: Request, media_types: tuple[str, ...]) -> str:
    """Return the body's media type.

    Refuse a body of none or another, and an encoding other than gzip or zstd, which `receive_piece` decodes.
    """
    coding = (header(request, b"content-encoding") or "identity").strip().lower()
    if coding in CODINGS:
        request.scope["refold.decoder"] = BodyDecoder(coding)
    elif coding != "identity":
        rule = "encode the body as gzip or zstd, or send it as it is"
        raise Refused("unsupported_media_type", rule, field="content-encoding", shape=repr(coding[:80]))
    media = media_type(header(request, b"content-type") or "")
    if media not in media_types:
        rule, shape = f"send {' or '.join(media_types)}", repr(media[:80]) if media else "none"
        raise Refused("unsupported_media_type", rule, field="content-type", shape=shape)
    return media


async def read_json(
    request: Request,
    bytes_max: int = EVENT_BYTES_MAX,
    reason: str = "event_too_large",
    # It is a member of its event, which is one level deeper.
    depth: int = NEWEST.limits.text_depth - 1,
) -> Json:
    """Read and parse the body. Raises `Refused` where it is too large (for this reason), too deep or not JSON."""
    return json_text.loads(await read_body(request, bytes_max, reason), depth)


async def receive_piece(request: Request) -> tuple[bytes, bool]:
    """Return the next piece of the body, decoded, and whether it is the last.

    Raises:
        Problem: 408 where nothing comes for a while, 400 where the body is cut or its chunks or encoding are malformed.
    """
    decoder: BodyDecoder | None = request.scope.get("refold.decoder")
    if decoder is None:
        return await _receive_piece(request)
    while (plain := decoder.take()) is None:
        if decoder.has_all:
            return b"", True
        piece, is_last = await _receive_piece(request)
        decoder.feed(piece, is_last=is_last)
    return plain, False


async def _receive_piece(request: Request) -> tuple[bytes, bool]:
    seconds = context_of(request).in_flight_limits.body_seconds
    try:
        async with asyncio.timeout(seconds):
            message = await request.receive()
    except TimeoutError as error:
        detail = f"nothing of the body came for {seconds:g} s (REFOLD_HTTP_BODY_SECONDS)"
        raise Problem(408, "body_timeout", detail, headers=_CLOSE, field="body") from error
    if message["type"] == "http.disconnect":
        detail = "the body ends before its announced length, or its chunks are malformed"
        raise Problem(400, "body_incomplete", detail, headers=_CLOSE, field="body")
    return message.get("body", b""), not message.get("more_body", False)


async def read_body(request: Request, bytes_max: int, reason: str) -> bytes:
    """Read the body. One that is too large is drained, so that its sender reads the response, and refused.

    `reason` is the refusal's code.
    """
    is_encoded = "refold.decoder" in request.scope
    whole_body = None if is_encoded else request.scope.get("extensions", {}).get("refold.whole_body")
    whole: bytes | None = None if whole_body is None else whole_body()
    if whole is not None and len(whole) <= bytes_max:
        return whole
    pieces: list[bytes] = []
    bytes_count, is_complete = (0, False) if whole is None else (len(whole), True)
    announced = header(request, b"content-length") or ""
    async with waiting():
        while not is_complete:
            piece, is_complete = await receive_piece(request)
            bytes_count += len(piece)
            if bytes_count <= bytes_max:
                hold_body(bytes_count)
                pieces.append(piece)
            elif is_encoded or bytes_count > DRAIN_BYTES_MAX:
                break
    hold_body(0)
    if bytes_count > bytes_max:
        size = announced if announced.isdigit() and not is_encoded else f"at least {bytes_count}"
        raise Refused(reason, f"at most {bytes_max} bytes", field="body", shape=f"{size} bytes")
    return b"".join(pieces)
