"""Answers that are lost, and processes that are killed: a write is sent again under its id, and has one effect."""

import asyncio
import re
import signal
import time
from collections import Counter
from itertools import pairwise
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil

from refold import System
from refold.client import Refold

NAMESPACE = "payments"
LOST = 4
"""Answers of one write that are lost."""
WRITERS, KILLS, BETWEEN_SECONDS = 8, ("nats-server", "gateway", "projector"), 1.5
UNFOLDED_SECONDS = 0.5
RETRY_SECONDS = 60.0
_KEY = re.compile(rb"Idempotency-Key: (\S+)")


async def lose_answers(system: System) -> int:
    """Send one write through a line that loses the first answers; show when it was sent, and what became of it."""
    print(f"\n▸ Resilience: the answers to the first {LOST} requests are lost")
    async with LossyLine(system.http, LOST) as line, Refold(line.url) as refold:
        outcome = await refold.put(NAMESPACE, "invoice", {"cents": 1_990}, type="invoice.paid")
        head = await refold.get(NAMESPACE, "invoice")
    times = [moment for moment, _ in line.writes]
    pauses = ", ".join(f"{after - before:.2f}" for before, after in pairwise(times))
    keys = {key for _, key in line.writes}
    print(f"  sent {len(times)} times under {len(keys)} id, after pauses of {pauses} s")
    print(f"  outcome: {outcome.status} of an event that was {outcome.first_status}; version {head.version}")
    assert (len(times), len(keys), outcome.status, head.version) == (LOST + 1, 1, "duplicate", 1)
    return 1


async def kill_everything(system: System) -> int:
    """Kill one process after the other while writers count; then compare each counter with the acknowledgements."""
    print(f"\n▸ Resilience: kill -9 of {', '.join(KILLS)}, while {WRITERS} clients write")
    has_ended, statuses, seconds = asyncio.Event(), Counter[str](), list[float]()
    async with Refold(system.http, retry_seconds=RETRY_SECONDS) as refold:

        async def write(account: str) -> None:
            while not has_ended.is_set():
                begun = time.monotonic()
                outcome = await refold.patch(
                    NAMESPACE, account, [{"op": "inc", "path": "/paid", "inc": 1}], type="payment.made"
                )
                statuses[outcome.raise_for_status().status] += 1
                seconds.append(time.monotonic() - begun)

        for number in range(WRITERS):
            await refold.put(NAMESPACE, f"account-{number}", {"paid": 0}, type="account.opened")
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(write(f"account-{number}"))
            for name in KILLS:
                await asyncio.sleep(BETWEEN_SECONDS)
                acknowledged = statuses.total()
                while statuses.total() == acknowledged:  # noqa: ASYNC110 - the writers count.
                    await asyncio.sleep(0.05)
                await _kill(name)
            await asyncio.sleep(BETWEEN_SECONDS)
            has_ended.set()
        counted = [await refold.get(NAMESPACE, f"account-{number}") for number in range(WRITERS)]
    made = sum(statuses.values())
    paid = sum(document.state["paid"] for document in counted)
    print(
        f"  {made:,} writes acknowledged; the longest took {max(seconds):.1f} s, half of them less than "
        f"{1_000 * sorted(seconds)[len(seconds) // 2]:.0f} ms"
    )
    print(
        f"  {statuses['duplicate']} of them were sent again although the event was in the log: duplicate, no effect"
    )
    print(f"  the counters add up to {paid:,}")
    assert statuses["duplicate"] > 0
    assert paid == made == sum(document.version - 1 for document in counted)
    return WRITERS + made


async def _kill(name: str) -> None:
    """Kill a part of the system, which starts it again: `kill -9`. In the gateway, writes wait for their outcomes."""
    killed, projector = process_of(name), process_of("projector")
    if name != "gateway":
        killed.kill()
        return
    projector.send_signal(signal.SIGSTOP)
    await asyncio.sleep(UNFOLDED_SECONDS)
    killed.kill()
    projector.send_signal(signal.SIGCONT)


def process_of(name: str) -> psutil.Process:
    """Return a part of the system; all of them are children of this process."""
    children = psutil.Process().children()
    return next(it for it in children if any(word.endswith(name) for word in it.cmdline()[:4]))


class LossyLine:
    """A relay to a gateway that hands on each request, and loses the first answers to writes."""

    def __init__(self, url: str, losses: int) -> None:
        """Lead to a gateway."""
        self._gateway = urlsplit(url)
        self._losses = losses
        self.writes: list[tuple[float, bytes]] = []
        """When each write came, and its id."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, _: type[BaseException] | None, __: object, ___: TracebackType | None) -> None:
        self._server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(self._gateway.hostname, self._gateway.port)
        # The requests are small: each comes in one piece, and so does its answer.
        while request := await reader.read(65_536):
            if found := _KEY.search(request):
                self.writes.append((time.monotonic(), found[1]))
            requests.write(request)
            answer = await answers.read(65_536)
            if found and len(self.writes) <= self._losses:
                break
            writer.write(answer)
        requests.close()
        writer.close()
