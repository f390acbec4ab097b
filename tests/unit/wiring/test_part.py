"""A part that dies is started again; one that keeps dying ends it all, by name."""

import asyncio

import pytest

from refold.core.errors import ChildFailed
from refold.wiring import part as module
from refold.wiring.part import DEATHS_MAX, Part


class Process:
    """A process that ends when it is told to."""

    def __init__(self, *, pid=1):
        self.pid = pid
        self.end = asyncio.get_running_loop().create_future()
        self.is_stopped = False

    async def ended(self):
        return await self.end

    async def stop(self):
        self.is_stopped = True

    def failure(self, what):
        return ChildFailed(f"it {what}; its log ends:\nlast words")


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.0,))


async def test_a_dead_part_is_started_again():
    first, second = Process(pid=1), Process(pid=2)
    started = asyncio.Event()

    async def start():
        started.set()
        return second

    said = []
    part = Part("projector", first, start)
    keeping = asyncio.create_task(part.keep(said.append))
    first.end.set_result(-9)
    await asyncio.wait_for(started.wait(), 5)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping
    assert part.pid == 2
    assert "signal 9" in said[0]
    await part.stop()
    assert second.is_stopped


async def test_a_part_that_keeps_dying_is_named_with_its_last_words():
    async def start():
        process = Process()
        process.end.set_result(1)
        return process

    part = Part("gateway", await start(), start)
    said = []
    with pytest.raises(ChildFailed, match=f"gateway died {DEATHS_MAX} times.*\nlast words"):
        await asyncio.wait_for(part.keep(said.append), 5)
    assert len(said) == DEATHS_MAX


async def test_a_part_that_cannot_be_started_again_counts_as_dying():
    attempts = []

    async def start():
        attempts.append(1)
        raise ChildFailed("nats could not be started")

    process = Process()
    process.end.set_result(0)
    with pytest.raises(ChildFailed, match="nats could not be started"):
        await asyncio.wait_for(Part("nats", process, start).keep(lambda _: None), 5)
    assert len(attempts) == DEATHS_MAX - 1
