"""A service that dies is restarted; one that keeps dying ends the system with an error that names it."""

import asyncio
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from refold.core.errors import ChildFailed
from refold.wiring import supervise as module
from refold.wiring.supervise import DEATHS_MAX, Fault, Part


class Process:
    """A process that runs until its `end` has a result."""

    def __init__(self, *, name="gateway", pid=1, faults=(None,)):
        self.command = SimpleNamespace(name=name)
        self.pid = pid
        self.faults = list(faults)
        self.end = asyncio.get_running_loop().create_future()
        self.is_stopped = False

    @property
    def is_running(self):
        return not self.end.done()

    async def ended(self):
        return await self.end

    async def fault(self):
        return self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]

    async def stop(self, *, wait_seconds=0.0):  # noqa: ARG002 - it ends at once.
        self.is_stopped = True
        if not self.end.done():
            self.end.set_result(0)

    def failure(self, what):
        return ChildFailed(f"it {what}; its log ends:\nlast words")


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.0,))
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.0)


def part_of(process, start, has_space=lambda: True):
    """A service that checks the health of its process."""
    return Part(process, start, process.fault, has_space)


async def test_a_dead_service_is_restarted():
    first, second = Process(pid=1), Process(pid=2)
    started = asyncio.Event()

    async def start():
        started.set()
        return second

    said = []
    part = part_of(first, start)
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


async def test_a_service_that_keeps_dying_is_reported_with_its_last_log_lines():
    async def start():
        process = Process()
        process.end.set_result(1)
        return process

    first = await start()
    part = part_of(first, start)
    said = []
    with pytest.raises(ChildFailed, match=f"gateway died {DEATHS_MAX} times.*\nlast words"):
        await asyncio.wait_for(part.keep(said.append), 5)
    assert len(said) == DEATHS_MAX


async def test_the_system_goes_on_without_a_part_that_only_watches(monkeypatch):
    monkeypatch.setattr(module, "DEATHS_SECONDS", 0.05)

    async def start():
        process = Process()
        process.end.set_result(1)
        return process

    left_out = asyncio.Event()
    part = Part(await start(), start, None, lambda: True, is_vital=False)
    said = []

    def say(line):
        said.append(line)
        if sum("is left out" in each for each in said) == 2:
            left_out.set()

    with capture_logs() as logged:
        keeping = asyncio.create_task(part.keep(say))
        await asyncio.wait_for(left_out.wait(), 5)
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping
    line = next(each for each in logged if each["event"] == "part_left_out")
    assert (line["part"], line["log_level"]) == ("gateway", "error")
    assert line["error"].startswith(f"gateway died {DEATHS_MAX} times")
    assert "last words" not in line["error"], "they are in the log of the part"


async def test_a_failed_restart_counts_as_a_death():
    attempts = []

    async def start():
        attempts.append(1)
        raise ChildFailed("nats could not be started")

    process = Process()
    process.end.set_result(0)
    with capture_logs() as logged, pytest.raises(ChildFailed, match="nats could not be started"):
        await asyncio.wait_for(part_of(process, start).keep(lambda _: None), 5)
    assert len(attempts) == DEATHS_MAX - 1
    failed = [each["error"] for each in logged if each["event"] == "part_not_started"]
    assert failed == ["nats could not be started"] * len(attempts)


HUNG = Fault("it did not answer", 0.0)
"""A fault with a time limit of zero."""


async def kept(part, said, started):
    """Supervise a service until it has been restarted."""
    keeping = asyncio.create_task(part.keep(said.append))
    await asyncio.wait_for(started.wait(), 5)
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_a_service_unhealthy_for_too_long_is_restarted(monkeypatch):
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    hung, fresh = Process(pid=1, faults=[None, None, HUNG]), Process(pid=2)
    started, said = asyncio.Event(), []

    async def start():
        started.set()
        return fresh

    part = part_of(hung, start)
    await kept(part, said, started)
    assert hung.is_stopped
    assert part.pid == 2
    assert "was ended (it did not answer), is started again" in said[0]


async def test_a_service_that_recovers_in_time_is_not_restarted(monkeypatch):
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    slow = Fault("it did not answer", 60.0)
    process = Process(faults=[slow, slow, None, slow, None])
    part = part_of(process, None)
    keeping = asyncio.create_task(part.keep(lambda _: None))
    async with asyncio.timeout(5):
        while len(process.faults) > 1:  # noqa: ASYNC110 - the service checks by itself.
            await asyncio.sleep(0)
    assert not process.is_stopped
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_an_unanswered_probe_counts_as_unhealthy(monkeypatch):
    monkeypatch.setattr(module, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(module, "NO_ANSWER", module.Fault("it did not answer", 0.0))

    class Silent(Process):
        async def fault(self):
            await asyncio.Event().wait()

    silent, started, said = Silent(), asyncio.Event(), []

    async def start():
        started.set()
        return Process(pid=2)

    await kept(part_of(silent, start), said, started)
    assert silent.is_stopped


async def test_a_service_that_died_of_a_full_disk_restarts_once_there_is_space_without_counting(
    monkeypatch,
):
    monkeypatch.setattr(module, "SPACE_SECONDS", 0.0)
    space = iter([False, False, False, True] * DEATHS_MAX * 2)
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
    await kept(part_of(process, start, lambda: next(space)), said, started)
    assert "waits: the disk of the data folder is full" in said[1]


async def test_restarts_after_failed_probes_and_after_deaths_are_counted_separately(monkeypatch):
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

    part = Part(await start(), start, ask, lambda: True)
    with pytest.raises(ChildFailed, match=f"gateway was unhealthy {DEATHS_MAX} times"):
        await asyncio.wait_for(part.keep(lambda _: None), 5)
    assert len(processes) == 2 * DEATHS_MAX - 1
