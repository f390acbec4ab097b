"""Run what is measured in processes of its own (`bench.worker`). Used by the measurements."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import orjson

from bench.usage import ProcessorClock
from refold.core.errors import ChildFailed
from refold.wiring.settings import environment_without

Task = Callable[..., Coroutine[Any, Any, Any]]
"""A coroutine function at the top of a module: takes `Signals`, then its arguments by name, all of them JSON."""

LINE_BYTES_MAX: Final = 64 * 1024 * 1024
ERROR_BYTES_MAX: Final = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a task returned, its peak memory, and its processor time since `go`."""

    value: Any
    peak_bytes: int
    cpu_seconds: float


class Worker:
    """A task in a process of its own; ended when its `async with` block ends."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Use `start`."""
        self._name = name
        self._process = process
        self._has_ended = False

    @classmethod
    async def start(cls, task: Task, **given: Any) -> Self:
        """Start it with its arguments; it begins at `go`."""
        name = f"{task.__module__}:{task.__qualname__}"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.worker",
            name,
            env=environment_without() | {"PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            start_new_session=True,
        )
        worker = cls(name, process)
        worker._send(orjson.dumps(given))
        return worker

    async def ready(self) -> None:
        """Wait until it is prepared. Raises `ChildFailed`."""
        await self._receive()

    def go(self) -> None:
        """Begin the task."""
        self._send(b"go")

    def stop(self) -> None:
        """Request the end; it reports what it has."""
        self._send(b"stop")

    async def ended(self) -> Ended:
        """Wait for its result. Raises `ChildFailed`."""
        answer = await self._receive()
        self._has_ended = True
        return Ended(
            value=answer["value"], peak_bytes=answer["peak_bytes"], cpu_seconds=answer["cpu_seconds"]
        )

    async def __aenter__(self) -> Self:
        """Use it in an `async with` block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill it if it has not ended."""
        # Signalling a process that has exited would lose its exit code for the waiter.
        if not self._has_ended:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")

    async def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self._name} ended without a result: {await self._complaint()}")
        answer: dict[str, Any] = orjson.loads(line)
        if "failed" in answer:
            raise ChildFailed(f"{self._name}: {answer['failed']}")
        return answer

    async def _complaint(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read())[-ERROR_BYTES_MAX:].decode(errors="replace").strip()


async def work(task: Task, **given: Any) -> Ended:
    """Run a task from its start to its end."""
    return (await work_beside((), task, **given))[0]


async def work_beside(
    pids: Iterable[tuple[str, int]], task: Task, **given: Any
) -> tuple[Ended, dict[str, float]]:
    """Run a task; return also the processor time of other processes, by group, while it worked."""
    async with await Worker.start(task, **given) as worker:
        await worker.ready()
        clock = ProcessorClock(pids)
        worker.go()
        ended = await worker.ended()
        return ended, clock.seconds()
