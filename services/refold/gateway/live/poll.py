"""Long poll: what came after a cursor, at once or as soon as there is something: for clients behind buffering proxies.

A request that waits, as others do (`refold.gateway.inflight`): what may pass is 503, and `Retry-After`.
"""

from __future__ import annotations

from contextlib import closing
from typing import Final

import orjson

from refold.gateway.inflight import deadline_in
from refold.gateway.live import Connection
from refold.gateway.responses import JSON, Response
from refold.live import LiveFull, Mailbox
from refold.live.fanout import Stream

MESSAGES_MAX: Final = 1_000
MESSAGES_BYTES_MAX: Final = 8 * 1024 * 1024
"""Messages of one response, and their bytes; a larger one comes alone."""


async def read_messages(
    stream: Stream, mailbox: Mailbox, connection: Connection, *, wait_seconds: float, is_first: bool
) -> Response:
    """Return the messages that a stream has; wait for one. To a first request, `ready` is one."""
    with closing(stream):
        messages, cursor = await _collect(stream, mailbox, deadline_in(wait_seconds), is_first=is_first)
    body = b'{"messages":[%b],"cursor":%b}' % (b",".join(messages), orjson.dumps(cursor))
    connection.count_bytes(len(body))
    return Response(body, 200, {"Cache-Control": "no-store"}, JSON)


async def _collect(
    stream: Stream, mailbox: Mailbox, deadline: float, *, is_first: bool
) -> tuple[list[bytes], str]:
    """Return messages, and the cursor after them. Raises `LiveFull` where the stream has ended instead."""
    messages: list[bytes] = []
    bytes_count, is_due, is_last, cursor = 0, False, False, ""
    while len(messages) < MESSAGES_MAX and bytes_count < MESSAGES_BYTES_MAX and not is_last:
        held = mailbox.take() if is_due else await mailbox.next(deadline)
        if held is None:
            # Its cursor is also beyond the changes that do not concern the subscriptions.
            stream.alive()
            held, is_last = mailbox.take(), True
        if held is None or held[0].kind == "bye":
            break
        frame, after = held
        cursor = after or cursor
        if frame.kind != "alive":
            messages.append(frame.body)
            bytes_count += len(frame.body)
            is_due = is_due or is_first or frame.kind != "ready"
    if not (messages or cursor):
        raise LiveFull("the gateway ends its live streams; ask again")
    return messages, cursor
