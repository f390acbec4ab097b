"""What a request asks for, beside its path: a bounded body, the event's fields in headers, how long to wait.

Used by the routes that write; the headers are read by the same code that reads them from the log.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

from starlette.requests import Request

from refold.core import canonical
from refold.core.canonical import Json
from refold.core.errors import Refused
from refold.core.fold import EVENT_BYTES_MAX, NEWEST
from refold.core.headers import fields_of, read_headers
from refold.core.limits import DRAIN_BYTES_MAX, WAIT_SECONDS_MAX
from refold.gateway.inflight import BodyInMemory, body_seconds, waiting
from refold.gateway.models import SECONDS
from refold.gateway.problems import Problem

_TRACE: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}[!-~]{0,200}")
_CLOSE: Final = {"Connection": "close"}
"""What follows on the connection could not be told from the rest of the body."""
_NOT_FIELDS: Final = frozenset({b"refold-wait"})
_KEY: Final = b"idempotency-key"


async def read_json(
    request: Request,
    media_types: tuple[str, ...],
    bytes_max: int = EVENT_BYTES_MAX,
    reason: str = "event_too_large",
) -> Json:
    """Read and parse the body. Raises `Refused` where it is too large, not JSON, or of another media type."""
    refuse_encoding(request)
    media = media_type(request)
    if media not in media_types:
        raise unsupported(media, media_types)
    return canonical.loads(await read_body(request, bytes_max, reason))


async def read_body(request: Request, bytes_max: int, reason: str) -> bytes:
    """Read the body; one that is too large is drained first, so that its sender hears of it."""
    parts: list[bytes] = []
    bytes_count = 0
    is_complete = False
    told = request.headers.get("content-length", "")
    with BodyInMemory() as kept:
        async with waiting():
            while not is_complete:
                piece, is_complete = await receive_piece(request)
                bytes_count += len(piece)
                # Not asking for the end of a body whose length was told saves a round trip to the server's thread.
                is_complete = is_complete or told == str(bytes_count)
                if bytes_count <= bytes_max:
                    kept.keep(bytes_count)
                    parts.append(piece)
                elif bytes_count > DRAIN_BYTES_MAX:
                    break
    if bytes_count > bytes_max:
        size = told if told.isdigit() else f"at least {bytes_count}"
        raise Refused(reason, f"at most {bytes_max} bytes", field="body", shape=f"{size} bytes")
    return b"".join(parts)


async def receive_piece(request: Request) -> tuple[bytes, bool]:
    """Return the next piece of the body, and whether it is the last.

    Raises:
        Problem: 408 where nothing comes for a while, 400 where the body is cut or its chunks are malformed.
    """
    seconds = body_seconds()
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


def event_fields(request: Request) -> dict[str, Json]:
    """Read the event's fields that stand in headers: `Refold-*`, and `Idempotency-Key` as its id."""
    lines: list[bytes] = []
    keys: list[bytes] = []
    for name, value in request.scope["headers"]:
        if name == _KEY:
            keys.append(value)
        elif name.startswith(b"refold-") and name not in _NOT_FIELDS:
            lines.append(name + b": " + value + b"\r\n")
        elif name.startswith(b"ce-"):
            raise Refused(
                "unknown_field", "CloudEvents are for NATS; here it is Refold-*", field=name.decode()
            )
    ours = read_headers(b"".join(lines))
    if "refold-reply" in ours:
        raise Refused("unknown_field", "over HTTP the answer is the reply", field="refold-reply")
    fields = fields_of(ours, NEWEST.limits)
    if len(keys) > 1:
        raise Refused("repeated_header", "a header may stand once", field="idempotency-key")
    if keys:
        event_id = _text(keys[0])
        if fields.setdefault("id", event_id) != event_id:
            raise Refused("contradictory", "Idempotency-Key and Refold-Id differ", field="id")
    return fields


def carried_headers(request: Request) -> tuple[tuple[str, str], ...]:
    """Return the tracing headers that go into the log with the event; an invalid one is dropped (W3C)."""
    trace = [value for name, value in request.scope["headers"] if name == b"traceparent"]
    if len(trace) == 1 and _TRACE.fullmatch(trace[0]):
        return (("traceparent", trace[0].decode("ascii")),)
    return ()


def wait_seconds(request: Request, default: float) -> float:
    """Read `Refold-Wait`."""
    told = request.headers.get("refold-wait")
    return default if told is None else seconds(told, "Refold-Wait")


def seconds(text: str, field: str) -> float:
    """Read a time to wait, in seconds."""
    if not SECONDS.fullmatch(text) or float(text) > WAIT_SECONDS_MAX:
        detail = f"{field}: seconds from 0 to {WAIT_SECONDS_MAX}, such as 2.5 (got {text[:40]!r})"
        raise Problem(422, "bad_parameter", detail, field=field)
    return float(text)


def deadline_in(wait: float) -> float:
    """Return a time on the loop's clock."""
    return asyncio.get_running_loop().time() + wait


def media_type(request: Request) -> str:
    """Return the body's media type without its parameters; empty where none is said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported(media: str, media_types: tuple[str, ...]) -> Refused:
    """Say which media types are taken."""
    shape = repr(media[:80]) if media else "none"
    return Refused(
        "unsupported_media_type", f"send {' or '.join(media_types)}", field="content-type", shape=shape
    )


def refuse_encoding(request: Request) -> None:
    """Refuse a compressed body: its size could not be bounded by its length."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        rule = "send the body as it is, not encoded"
        raise Refused("unsupported_media_type", rule, field="content-encoding", shape=repr(coding[:80]))


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused("bad_header", "a header's value must be UTF-8", field="idempotency-key") from None
