"""Services that are started again whenever they exit, as a supervisor does. For commands that kill them."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Kept:
    """One service: `refold SERVICE`, started again at once when it exits.

    `before_start` is called before each start. `exits` are those that `kill` did not cause: the exit code, and how many
    seconds it ran.
    """

    name: str
    service: str
    environment: Mapping[str, str]
    log: Path
    before_start: Callable[[], None] = lambda: None
    exits: list[tuple[int, float]] = field(default_factory=list)
    kills: int = 0
    process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        """Run it until cancelled."""
        while True:
            self.before_start()
            with self.log.open("ab") as log:
                command = (sys.executable, "-m", "refold", self.service)
                started = await asyncio.create_subprocess_exec(*command, env=self.environment, stderr=log)
            kills, started_at, self.process = self.kills, time.monotonic(), started
            try:
                code = await started.wait()
            finally:
                with suppress(ProcessLookupError):
                    started.terminate()
                await started.wait()
            if kills == self.kills:
                self.exits.append((code, time.monotonic() - started_at))

    async def kill(self) -> None:
        """End the running process as a power cut would."""
        assert self.process is not None, self.name
        self.kills += 1
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def tail(self, lines: int = 5) -> list[str]:
        """Return the last lines of its log."""
        return self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []


@asynccontextmanager
async def keeping(services: list[Kept]) -> AsyncIterator[None]:
    """Keep the services running as long as the block runs."""
    async with AsyncExitStack() as endings:
        tasks = await endings.enter_async_context(asyncio.TaskGroup())
        for service in services:
            endings.callback(tasks.create_task(service.keep(), name=service.name).cancel)
        yield
