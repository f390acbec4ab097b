"""The routes of live subscriptions: one document, or several subscriptions on one connection. Part of
`refold.gateway.app`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Final

from starlette.requests import Request

from refold.core.errors import RefoldError, TimedOut
from refold.gateway.context import context_of
from refold.gateway.guard import Action
from refold.gateway.inflight import waiting
from refold.gateway.live.poll import read_messages
from refold.gateway.live.requests import Asked, is_event_stream, read_all, read_document
from refold.gateway.live.sse import EventSink, EventStream, head_response, later_response
from refold.gateway.responses import RETRY, Problem, Response, problem_of
from refold.live import Mailbox, Subscription

_MAY_PASS: Final = frozenset({429, 503, 504})


async def watch_document(request: Request) -> Response | EventStream:
    """Send a document, or a part of it, and what changes there."""
    return await _watch(request, read_document(request))


async def watch(request: Request) -> Response | EventStream:
    """Send what several subscriptions ask for, on one connection."""
    return await _watch(request, read_all(request))


async def _watch(request: Request, asked: Asked) -> Response | EventStream:
    client = admit(request, asked.subscriptions)
    is_stream = is_event_stream(request.scope)
    if is_stream and request.method == "HEAD":
        return head_response()
    try:
        return await (_stream if is_stream else _poll)(request, asked, client)
    except (Problem, RefoldError) as error:
        problem = problem_of(error)
        if is_stream and problem.status in _MAY_PASS:
            return later_response()
        if isinstance(error, Problem):
            raise
        if isinstance(error, TimedOut):
            raise Problem(503, error.code, error.message, headers=RETRY) from error
        if problem.code == "bad_cursor":
            # It does not parse; elsewhere a cursor is a parameter as any other.
            problem.status = 400
        raise problem from error


def admit(request: Request, subscriptions: Sequence[Subscription]) -> str:
    """Return the client as its connections are counted. Raises `Problem` where the guard refuses it."""
    guard = context_of(request).guard
    principal = guard.admit(request)
    for each in subscriptions:
        if not guard.may(principal, Action.watch, each.namespace, each.document, each.path):
            raise Problem(
                403, "forbidden", f"{principal.name} may not watch {each.namespace}", field="namespace"
            )
    address = request.scope.get("client")
    return f"{principal.name} {address[0] if address else ''}"


async def _stream(request: Request, asked: Asked, client: str) -> EventStream:
    context = context_of(request)
    if not (context.readiness.is_caught_up or context.readiness.allows_stale_reads):
        raise context.readiness.behind()
    connection = context.live_connections.enter("sse", client)
    try:
        sink = EventSink(connection)
        stream = await context.live.open(
            asked.subscriptions, sink, cursor=asked.cursor, is_reconnect=asked.is_reconnect
        )
    except BaseException:
        connection.close()
        raise
    return EventStream(sink, stream, connection)


async def _poll(request: Request, asked: Asked, client: str) -> Response:
    context = context_of(request)
    with closing(context.live_connections.enter("poll", client)) as connection:
        async with waiting():
            mailbox = Mailbox()
            stream = await context.live.open(
                asked.subscriptions, mailbox, cursor=asked.cursor, is_reconnect=asked.is_reconnect
            )
            return await read_messages(
                stream,
                mailbox,
                connection,
                wait_seconds=asked.wait_seconds,
                is_first=asked.cursor is None,
            )
