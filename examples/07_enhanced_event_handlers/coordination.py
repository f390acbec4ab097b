"""Clients that wait for each other: for another one's version, at a barrier, and for a job that one of them gets."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from refold import System
from refold.client import Conflict, Refold, TimedOut

NAMESPACE = "jobs"
WORKERS, STEP_SECONDS = 5, 0.15


async def wait_for_each_other(system: System) -> int:
    """Play the three scenes; return how many changes were made."""
    print("\n▸ Synchronisation: clients wait for what others write")
    async with Refold(system.http) as ann, Refold(system.http) as ben:
        changes = await _wait_for_version(ann, ben)
    workers = [Refold(system.http) for _ in range(WORKERS)]
    changes += await _meet(workers)
    changes += await _be_first(workers)
    for worker in workers:
        await worker.close()
    return changes


async def _wait_for_version(ann: Refold, ben: Refold) -> int:
    """Ben reads version 3 before Ann has written it: the read waits in the gateway."""
    job = NAMESPACE, "report"
    with _timed() as waited:
        reading = asyncio.create_task(ben.get(*job, min_version=3, timeout_seconds=10))
        for percent in (30, 60, 100):
            await asyncio.sleep(STEP_SECONDS)
            outcome = await ann.merge(*job, {"percent": percent}, type="job.progressed")
        found = await reading
    print(f"  Ben asked for version 3 and got it, {found.state}, after {waited[0]:.2f} s")
    assert found.version == outcome.version == 3

    outcome = await ann.merge(*job, {"done": True}, type="job.ended")
    found = await ben.get(*job, min_sequence=outcome.sequence)
    print("  Ann tells Ben her outcome's sequence: his read has her write")
    assert found.state == {"percent": 100, "done": True}

    with _timed() as waited:
        try:
            await ben.get(*job, min_version=5, timeout_seconds=0.3)
            raise AssertionError("there is no version 5")
        except TimedOut:
            pass
    print(f"  Ben asks for version 5, which is not written: TimedOut after {waited[0]:.2f} s")
    return 4


async def _meet(workers: list[Refold]) -> int:
    """Let no worker go on before all have arrived: each counts itself, and waits for the last one's version."""
    arrived, left = list[float](), list[float]()
    await workers[0].put(NAMESPACE, "barrier", {"arrived": 0}, type="barrier.made")

    async def work(number: int, refold: Refold) -> None:
        await asyncio.sleep(number * STEP_SECONDS)
        arrived.append(time.monotonic())
        patch = [{"op": "inc", "path": "/arrived", "inc": 1}]
        await refold.patch(NAMESPACE, "barrier", patch, type="worker.arrived")
        await refold.get(NAMESPACE, "barrier", min_version=1 + WORKERS, timeout_seconds=10)
        left.append(time.monotonic())

    await asyncio.gather(*(work(number, refold) for number, refold in enumerate(workers)))
    print(f"  {WORKERS} workers arrive within {max(arrived) - min(arrived):.2f} s")
    print(
        f"  they go on within {1_000 * (max(left) - min(left)):.0f} ms of each other, none before the last has come"
    )
    assert min(left) > max(arrived)
    return 1 + WORKERS


async def _be_first(workers: list[Refold]) -> int:
    """Let all workers try to take a job: one gets it, the others learn that it is taken."""

    async def take(number: int, refold: Refold) -> bool:
        try:
            state = {"worker": number}
            await refold.put(NAMESPACE, "nightly", state, if_absent=True, type="job.taken")
        except Conflict:
            return False
        return True

    took = await asyncio.gather(*(take(number, refold) for number, refold in enumerate(workers)))
    print(f"  {WORKERS} workers try to take one job at the same time: {sum(took)} gets it")
    assert sum(took) == 1
    return 1


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Give a list that has the seconds of the block at its end."""
    begun, seconds = time.monotonic(), list[float]()
    yield seconds
    seconds.append(time.monotonic() - begun)
