"""The broker's JetStream API, as far as the log needs it: JSON asked, JSON answered, errors told apart.

Used by the other modules of this package.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import orjson

from refold.core.errors import LogMissing, LogUnavailable
from refold.core.record import Record
from refold.core.timestamp import parse_rfc3339
from refold.log.jetstream.client import NO_RESPONDERS, BrokerClient
from refold.log.jetstream.frames import stored_lines

STREAM: Final = "STATE"
STREAM_ABSENT: Final = 10059
EVENT_ABSENT: Final = 10037

_REPLACED: Final = "\ufffd"
_STORED_SUBJECT: Final = b"\r\nNats-Subject: "


class ApiRefused(Exception):
    """The broker's API refused: caught in this package, never shown outside of it."""

    def __init__(self, code: int, description: str) -> None:
        """Keep the broker's own number and words."""
        super().__init__(f"{description} ({code})")
        self.code = code


async def ask_api(client: BrokerClient, verb: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask `$JS.API.<verb>`. Raises `ApiRefused`, `LogUnavailable`."""
    payload = b"" if request is None else orjson.dumps(request)
    headers, body = await client.ask(f"$JS.API.{verb}", payload)
    if headers.startswith(NO_RESPONDERS):
        raise LogUnavailable("JetStream is not up at the broker", verb=verb)
    answer: dict[str, Any] = orjson.loads(body)
    error = answer.get("error")
    if error is not None:
        raise ApiRefused(error.get("err_code", 0), error.get("description", ""))
    return answer


async def stream_info(client: BrokerClient, **details: bool) -> dict[str, Any]:
    """Ask the stream's leader for configuration and state. Raises `LogMissing` where there is no stream."""
    try:
        return await ask_api(client, f"STREAM.INFO.{STREAM}", details or None)
    except ApiRefused as refused:
        if refused.code == STREAM_ABSENT:
            message = "there is no log: a projector with the administrator's address creates it at its start"
            raise LogMissing(message, stream=STREAM) from refused
        raise LogUnavailable("the broker does not tell of the log", reason=str(refused)) from refused


async def unreadable_range(client: BrokerClient, first_sequence: int, end_sequence: int) -> tuple[int, int]:
    """Return the first and last sequence around `first_sequence` that the leader does not give.

    `first_sequence` is known to be unreadable. One damaged block is one range: its end is found by doubling steps,
    then by halving them, about 30 requests for a million events.
    """
    unreadable, readable, step = first_sequence, end_sequence + 1, 1
    while unreadable + step < readable:
        if await _is_readable(client, unreadable + step):
            readable = unreadable + step
        else:
            unreadable += step
            step *= 2
    while readable - unreadable > 1:
        middle = (readable + unreadable) // 2
        if await _is_readable(client, middle):
            readable = middle
        else:
            unreadable = middle
    return first_sequence, unreadable


async def _is_readable(client: BrokerClient, sequence: int) -> bool:
    try:
        await ask_api(client, f"STREAM.MSG.GET.{STREAM}", {"seq": sequence})
    except ApiRefused:
        return False
    return True


async def stored_record(client: BrokerClient, **which: int | str) -> Record | None:
    """Ask the leader for one event: `seq`, or the last one of a subject (`last_by_subj`)."""
    try:
        answer = await ask_api(client, f"STREAM.MSG.GET.{STREAM}", dict(which))
    except ApiRefused as refused:
        if refused.code == EVENT_ABSENT:
            return None
        raise LogUnavailable("the broker does not give the event", reason=str(refused)) from refused
    message = answer["message"]
    sequence, subject = message["seq"], message["subject"]
    headers, body = (base64.b64decode(message.get(name, "")) for name in ("hdrs", "data"))
    # JSON cannot carry every subject that can be stored: what it replaced is asked for as bytes.
    exact = await _subject_bytes(client, sequence) if _REPLACED in subject else subject.encode()
    return Record(sequence, parse_rfc3339(message["time"], "time"), exact, stored_lines(headers), body)


async def _subject_bytes(client: BrokerClient, sequence: int) -> bytes:
    block, _ = await client.ask(f"$JS.API.DIRECT.GET.{STREAM}", orjson.dumps({"seq": sequence}))
    # The broker adds its lines behind all others, so that nobody's own `Nats-Subject` can be taken for it.
    _, found, rest = block.rpartition(_STORED_SUBJECT)
    if not found:
        raise LogUnavailable("the broker does not give the event's subject", sequence=sequence)
    return rest.partition(b"\r\n")[0]
