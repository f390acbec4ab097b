"""Parts that are slower than the others: a subscriber that does not read, and a projector that does not fold."""

import asyncio
import json
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from http.client import HTTPConnection
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from resilience import process_of

from refold import System
from refold.client import Refold, apply_patch

NAMESPACE = "feed"
WAITING_MAX, LIVE_MAX = 100, 4
"""Bounds of the gateway in this example: requests that wait, and live connections of one client."""
CHANGES, ENTRY_CHARS, ENTRIES = 800, 2_000, 10
BATCH = 20
CLIENTS, WRITES = 4, 64
STOPPED_SECONDS = 1.5


async def read_slowly(system: System) -> int:
    """Follow a document with a client that reads and one that does not; then let the slow one read."""
    print(
        f"\n▸ Backpressure: {CHANGES} changes of {ENTRY_CHARS // 1_000} KB, one subscriber reads each, another none"
    )
    key = NAMESPACE, "news"
    async with Refold(system.http) as refold:
        await refold.put(*key, {"entries": []}, type="feed.opened")
        slow = SlowReader(system.http, *key)
        first = next(slow.messages)
        async with aclosing(refold.watch(*key, after=1, merge=False)) as updates:
            fast = asyncio.create_task(_count(updates, CHANGES))
            for number in range(0, CHANGES, BATCH):
                entries = [f"{n:05}" + "x" * ENTRY_CHARS for n in range(number, number + BATCH)]
                events = [
                    {
                        "doc": "news",
                        "patch": [{"op": "push", "path": "/entries", "value": it, "max": ENTRIES}],
                    }
                    for it in entries
                ]
                for outcome in await refold.append(NAMESPACE, events):
                    outcome.raise_for_status()
            updates_count = await fast
            received = [first, *await asyncio.to_thread(slow.read_until, CHANGES + 1)]
            print(f"  the one that reads:    {updates_count} updates of {CHANGES} changes")
            _show_received(received)
            await _open_too_many(system, *key)
        head = await refold.get(*key)
    slow.close()
    assert updates_count == CHANGES
    assert _state_after(received) == head.state
    return CHANGES + 1


def _show_received(received: list[dict[str, Any]]) -> None:
    """Print in how few messages the slow client got all changes."""
    versions = [message["version"] for message in received]
    counts = [after - before for before, after in pairwise(versions)]
    largest = counts.index(max(counts)) + 1
    print(
        f"  the one that does not: {len(counts)} updates of {sum(counts)} changes, {max(counts)} of them in one "
        f"{received[largest]['kind']}"
    )
    assert min(counts) > 0
    assert max(counts) > 1


def _state_after(messages: list[dict[str, Any]]) -> Any:
    """Return the state that a client has after these messages."""
    state: Any = None
    for message in messages:
        state = message["state"] if message["kind"] == "snapshot" else apply_patch(state, message["patch"])
    return state


async def _count(updates: Any, count: int) -> int:
    """Return how many updates came until the last change."""
    number = 0
    async for update in updates:
        number += 1
        if update.version == count + 1:
            break
    return number


async def _open_too_many(system: System, namespace: str, document: str) -> None:
    """Open more live connections than one client may: the last one is sent away, for some seconds."""
    # One that is slow and one that is fast are open already.
    readers = [SlowReader(system.http, namespace, document) for _ in range(LIVE_MAX - 1)]
    *_, last = [next(reader.messages) for reader in readers]
    print(
        f"  connection {LIVE_MAX + 1} of a client that may have {LIVE_MAX}: {last['kind']}, {last['reason']}, "
        f"return in {last['retry_seconds']:.1f} s"
    )
    assert (last["kind"], last["reason"]) == ("bye", "full")
    for reader in readers:
        reader.close()


async def write_too_much(system: System) -> int:
    """Stop the projector, and write more than the gateway lets wait; then let the projector continue."""
    count = CLIENTS * WRITES
    print(
        f"\n▸ Backpressure: the projector is stopped for {STOPPED_SECONDS} s; {count} writes at once, "
        f"{WAITING_MAX} may wait"
    )
    clients = [Refold(system.http) for _ in range(CLIENTS)]
    for number in range(WRITES):
        await clients[0].put(NAMESPACE, f"queue-{number}", {"count": 0}, type="queue.opened")
    refused_before = await _refused(system.http)
    projector, begun = process_of("projector"), time.monotonic()
    projector.send_signal(signal.SIGSTOP)
    patch = [{"op": "inc", "path": "/count", "inc": 1}]
    writing = [
        asyncio.create_task(client.patch(NAMESPACE, f"queue-{number}", patch, type="queued"))
        for client in clients
        for number in range(WRITES)
    ]
    await asyncio.sleep(STOPPED_SECONDS / 2)
    print(f"  one more, without a retry: {await asyncio.to_thread(_answer_now, system.http)}")
    await asyncio.sleep(STOPPED_SECONDS / 2)
    projector.send_signal(signal.SIGCONT)
    outcomes = Counter([(await each).raise_for_status().status for each in writing])
    counted = [
        (await clients[0].get(NAMESPACE, f"queue-{number}")).state["count"] for number in range(WRITES)
    ]
    seconds = time.monotonic() - begun
    for client in clients:
        await client.close()
    refused = await _refused(system.http) - refused_before
    print(f"  the gateway counts {refused} answers with 503, after which the clients waited and sent again")
    print(
        f"  {seconds:.1f} s after the stop all {outcomes.total()} are in effect; "
        f"the counters add up to {sum(counted)}"
    )
    # Each write that found no place, and the one without a retry.
    assert refused > count - WAITING_MAX
    assert sum(counted) == count == outcomes.total()
    return WRITES + count


def _answer_now(url: str) -> str:
    """Write without any retry; return the answer's status and when to come back."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request(
        "PATCH", f"/v1/{NAMESPACE}/refused", b"{}", {"Content-Type": "application/merge-patch+json"}
    )
    response = connection.getresponse()
    problem = json.loads(response.read())
    connection.close()
    return f"{response.status} {problem['code']}, Retry-After: {response.headers['Retry-After']}"


async def _refused(url: str) -> int:
    """Return how many requests the gateway has answered with 503, by its metrics."""
    await asyncio.sleep(1.1)  # What it answers is up to a second old.
    with await asyncio.to_thread(urlopen, f"{url}/metrics") as response:
        text = response.read().decode()
    counts = re.findall(r'^refold_http_request_seconds_count{.*status="503".*} (\S+)$', text, re.MULTILINE)
    return sum(int(float(count)) for count in counts)


class SlowReader:
    """A live connection on a socket that takes little, and whose messages are read when they are asked for."""

    def __init__(self, url: str, namespace: str, document: str) -> None:
        """Open it."""
        where = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        self._socket.settimeout(30)
        self._socket.connect((where.hostname, where.port))
        headers = f"Host: {where.netloc}\r\nAccept: text/event-stream\r\n"
        self._socket.sendall(f"GET /v1/{namespace}/{document}/live HTTP/1.0\r\n{headers}\r\n".encode())
        self.messages = self._read()

    def read_until(self, version: int) -> list[dict[str, Any]]:
        """Return the messages up to a version."""
        found: list[dict[str, Any]] = []
        while not found or found[-1]["version"] < version:
            message = next(self.messages)
            if message["kind"] != "alive":
                found.append(message)
        return found

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _read(self) -> Iterator[dict[str, Any]]:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                if line.startswith(b"data:"):
                    yield json.loads(line.removeprefix(b"data:"))
