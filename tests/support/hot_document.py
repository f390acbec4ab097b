"""Writers that increment one document at the same time, half over HTTP and half over NATS.

Half of the connections go through proxies, which lose answers and are cut: an increment without an answer is sent again
under its id. For a test, and for `tests/acceptance/hot_document.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from refold.client import Refold
from refold.core.errors import LogUnavailable
from refold.embedded.nats import inbox_prefix
from refold.log.jetstream.client import Client, connect
from refold.log.jetstream.protocol import message_frame
from support.proxy import Proxy
from support.system import System

DOCUMENT = "hot"
ANSWER_SECONDS = 60.0
LOST_EVENTS = 200
"""Increments for which answers are lost: fewer than the ids that the fold knows of a document, with all in flight."""
FIELDS = ({}, {"base"}, {"base", "session"}, {"session"})
"""The fields that a writer's events have beside the patch, in turn."""


@dataclass(slots=True)
class Course:
    """What was acknowledged: the sum of each writer, how many events, and their statuses."""

    sums: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    events: int = 0
    seconds: float = 0.0
    final: Any = None
    final_version: int = 0


class Writer(Protocol):
    """Sends an event until it is answered; returns status, reason, version and, of a duplicate, the first outcome."""

    async def send(self, event_id: str, patch: list[Any], fields: dict[str, Any]) -> dict[str, Any]: ...


class HttpWriter:
    """The Python client, which repeats by itself."""

    def __init__(self, refold: Refold, namespace: str) -> None:
        self._refold = refold
        self._namespace = namespace

    async def send(self, event_id: str, patch: list[Any], fields: dict[str, Any]) -> dict[str, Any]:
        outcome = await self._refold.patch(self._namespace, DOCUMENT, patch, id=event_id, **fields)
        return {"status": outcome.status, "reason": outcome.reason or None, "version": outcome.version}


class NatsWriter:
    """A connection that publishes events with a subject for their outcome."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._subject = f"state.{namespace}.{DOCUMENT}".encode()
        self._reply = client.new_inbox()
        self._waiting: asyncio.Future[dict[str, Any]] | None = None
        self._id = ""
        client.subscribe(self._reply, self._take)
        client.on_disconnect(self._lose)

    async def send(self, event_id: str, patch: list[Any], fields: dict[str, Any]) -> dict[str, Any]:
        body = orjson.dumps({"patch": patch, "id": event_id, **fields})
        headers = f"Refold-Reply: {self._reply}\r\n".encode()
        while True:
            self._id, self._waiting = event_id, asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._client.wait_connected()
                    self._client.write(message_frame(self._subject, body, headers=headers))
                    answer = await self._waiting
            except LogUnavailable:
                # The connection was cut; the client connects again.
                if self._client.is_closed:
                    raise
                continue
            first = answer.get("first", answer)
            return {
                "status": answer["status"],
                "reason": first.get("reason"),
                "version": first["version"],
            }

    def _take(self, _: bytes, __: bytes, ___: bytes, body: bytes) -> None:
        for line in body.splitlines():
            view = orjson.loads(line)
            if self._waiting is not None and not self._waiting.done() and view["id"] == self._id:
                self._waiting.set_result(view)

    def _lose(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(LogUnavailable("the connection was cut"))


class _Faults:
    """Loses the answers from the proxies for some increments, then cuts their connections, and again."""

    def __init__(self, proxies: Iterable[Proxy], every: int) -> None:
        self._proxies = list(proxies)
        self._every = every
        self._losing = ExitStack()
        self._begins_at = every
        self._ends_at = 0

    def note(self, events: int) -> None:
        """Begin and end a fault by the number of increments so far."""
        if self._ends_at and events >= self._ends_at:
            self.end()
        elif not self._ends_at and events >= self._begins_at:
            self._begins_at, self._ends_at = events + self._every, events + LOST_EVENTS
            for proxy in self._proxies:
                self._losing.enter_context(proxy.losing_answers())

    def end(self) -> None:
        """End a fault."""
        self._ends_at = 0
        self._losing.close()


async def increment_all(
    system: System, namespace: str, *, writers: int, increments: int, faults: int
) -> Course:
    """Let each writer make so many increments, with so many faults; return what was acknowledged, and the end state."""
    course, names = Course(), [f"w{number}" for number in range(writers)]
    proxies = [Proxy("127.0.0.1", urlsplit(system.url).port or 0), Proxy(system.nats.host, system.nats.port)]
    # The last one ends while the direct connections still increment.
    losing = _Faults(proxies, max(1, writers // 2 * increments // (faults + 1))) if faults else None
    async with AsyncExitStack() as stack:
        for proxy in proxies:
            stack.callback(proxy.close)
        refold = await stack.enter_async_context(Refold(system.url))
        await refold.put(namespace, DOCUMENT, {"count": 0, "by": dict.fromkeys(names, 0)})
        direct, proxied = [], []
        for number, name in enumerate(names):
            proxy = proxies[number % 2] if number % 4 > 1 else None
            writer = await _open(system, namespace, stack, is_http=number % 2 == 0, proxy=proxy)
            (direct if proxy is None else proxied).append((name, writer))
        started_at = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for each in proxied:
                tasks.create_task(_increment(*each, course, increments, None))
            writing = [tasks.create_task(_increment(*each, course, increments, losing)) for each in direct]
            await asyncio.wait(writing)
            if losing is not None:
                losing.end()
        course.seconds = time.perf_counter() - started_at
        document = await refold.get(namespace, DOCUMENT, min_version=course.events + 1)
        course.final, course.final_version = document.state, document.version
    return course


async def _open(
    system: System, namespace: str, stack: AsyncExitStack, *, is_http: bool, proxy: Proxy | None
) -> Writer:
    if is_http:
        url = system.url if proxy is None else f"http://127.0.0.1:{proxy.port}"
        client = Refold(url, timeout_seconds=ANSWER_SECONDS, retry_seconds=ANSWER_SECONDS)
        return HttpWriter(await stack.enter_async_context(client), namespace)
    url = system.nats.url("author")
    if proxy is not None:
        url = url.replace(f"{system.nats.host}:{system.nats.port}", f"127.0.0.1:{proxy.port}")
    broker = await connect(url, inbox_prefix=inbox_prefix("author"))
    stack.push_async_callback(broker.close)
    return NatsWriter(broker, namespace)


async def _increment(
    name: str, writer: Writer, course: Course, increments: int, losing: _Faults | None
) -> None:
    """Increment; one whose base became too old while it was repeated is made again from the version in the answer."""
    version = 1
    for number in range(increments):
        amount, attempt = 1 + number % 3, 0
        patch = [{"op": "inc", "path": path, "inc": amount} for path in ("/count", f"/by/{name}")]
        while True:
            given = {"base": version, "session": name}
            fields = {key: value for key, value in given.items() if key in FIELDS[number % len(FIELDS)]}
            answer = await writer.send(f"{name}-{number}-{attempt}", patch, fields)
            version = answer["version"]
            course.statuses[answer["status"]] += 1
            if answer["reason"] is None:
                break
            assert answer["reason"] == "base_too_old", answer
            attempt += 1
        course.sums[name] += amount
        course.events += 1
        if losing is not None:
            losing.note(course.events)
