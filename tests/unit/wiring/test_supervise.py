"""A part that dies is started again; one that keeps dying ends it all, by name."""

import asyncio

import pytest

from refold.core.errors import ChildFailed
from refold.wiring import supervise as module
from refold.wiring.supervise import DEATHS_MAX, Fault, Part


class Process:
    """A process that ends when it is told to."""

    def __init__(self, *, pid=1, faults=(None,)):
        self.pid = pid
        self.faults = list(faults)
        self.end = asyncio.get_running_loop().create_future()
        self.is_stopped = False

    async def ended(self, *, poll_seconds=0.0):  # noqa: ARG002 - the future says when.
        return await self.end

    async def fault(self):
        return self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]

    async def stop(self, *, wait_seconds=0.0):  # noqa: ARG002 - it ends at once.
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
    part = Part("projector", first, start, first.fault)
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

    first = await start()
    part = Part("gateway", first, start, first.fault)
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
        await asyncio.wait_for(Part("nats", process, start, process.fault).keep(lambda _: None), 5)
    assert len(attempts) == DEATHS_MAX - 1


HUNG = Fault("it did not answer", 0.0)
"""As after all patience."""


async def kept(part, said, started):
    """Keep a part until it has been started again."""
    keeping = asyncio.create_task(part.keep(said.append))
    await asyncio.wait_for(started.wait(), 5)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_a_part_that_is_unwell_for_too_long_is_ended_and_started_again(monkeypatch):
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    hung, fresh = Process(pid=1, faults=[None, None, HUNG]), Process(pid=2)
    started, said = asyncio.Event(), []

    async def start():
        started.set()
        return fresh

    part = Part("gateway", hung, start, hung.fault)
    await kept(part, said, started)
    assert hung.is_stopped
    assert part.pid == 2
    assert "was ended (it did not answer), is started again" in said[0]


async def test_a_part_that_answers_again_in_time_is_left_alone(monkeypatch):
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    slow = Fault("it did not answer", 60.0)
    process = Process(faults=[slow, slow, None, slow, None])
    part = Part("gateway", process, None, process.fault)
    keeping = asyncio.create_task(part.keep(lambda _: None))
    async with asyncio.timeout(5):
        while len(process.faults) > 1:  # noqa: ASYNC110 - the part asks on its own.
            await asyncio.sleep(0)
    assert not process.is_stopped
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_silence_is_a_fault(monkeypatch):
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.0)

    class Silent(Process):
        async def fault(self):
            await asyncio.Event().wait()

    silent, started, said = Silent(), asyncio.Event(), []

    async def start():
        started.set()
        return Process(pid=2)

    await kept(Part("gateway", silent, start, silent.fault), said, started)
    assert silent.is_stopped


async def test_what_ends_while_the_disk_is_full_is_started_once_there_is_room_and_does_not_count(monkeypatch):
    monkeypatch.setattr(module, "ROOM_SECONDS", 0.0)
    room = iter([False, False, False, True] * DEATHS_MAX * 2)
    started, said = asyncio.Event(), []
    starts = []

    async def start():
        starts.append(1)
        if len(starts) < DEATHS_MAX * 2:
            raise OSError(28, "No space left on device")
        started.set()
        return Process(pid=2)

    process = Process()
    process.end.set_result(1)
    await kept(Part("nats", process, start, process.fault, has_room=lambda: next(room)), said, started)
    assert "waits: the disk of the data folder is full" in said[1]


async def test_restarts_after_faults_and_after_deaths_are_counted_apart(monkeypatch):
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    broken = Fault("write error: no space left on device", 0.0)
    processes = []

    async def start():
        fresh = Process(faults=[None] if len(processes) % 2 else [broken])
        processes.append(fresh)
        if not len(processes) % 2:
            fresh.end.set_result(-9)
        return fresh

    async def ask():
        return await processes[-1].fault()

    part = Part("nats", await start(), start, ask)
    with pytest.raises(ChildFailed, match=f"nats was unhealthy {DEATHS_MAX} times"):
        await asyncio.wait_for(part.keep(lambda _: None), 5)
    assert len(processes) == 2 * DEATHS_MAX - 1
