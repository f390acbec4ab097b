"""Keep the parts of the system running: a part that has ended or is unhealthy for too long is started again.

Used by `refold.wiring.system`. A part is asked in the way that any client would: HTTP probes, a connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.errors import ChildFailed, EmbeddedError, raising_first
from refold.embedded.nats import NatsServer, space_bytes
from refold.embedded.postgres import PostgresServer
from refold.embedded.process import START_SECONDS, Process
from refold.log import BATCH_BYTES_MAX
from refold.telemetry.http import BadAnswer, get
from refold.telemetry.logging import get_logger

Say = Callable[[str], None]

DEATHS_MAX: Final = 5
DEATHS_SECONDS: Final = 60.0
"""A part ends the system if it dies, or is unhealthy, this often within this time."""
BACKOFF_SECONDS: Final = (0.0, 0.5, 1.0, 2.0)
"""Pause before a restart, by the number of restarts of the same kind, however long ago; from the fourth on the last."""
WATCH_SECONDS: Final = 0.1
"""How often a running process is looked at."""
ASK_SECONDS: Final = 2.0
"""How often a part is asked whether it is healthy."""
ANSWER_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 30.0
"""A part that has not answered for this long is hung; a busy machine is slow, but not that slow."""
UNHEALTHY_STOP_SECONDS: Final = 5.0
"""How long an unhealthy part may take to end by itself before it is killed."""
SPACE_SECONDS: Final = 1.0
"""How often the disk is looked at while it is full."""
SPACE_AT_BOUND_BYTES: Final = 32 * 1024 * 1024
"""A NATS server at its bound is restarted only if its bound would grow by more than this."""
UNWRITABLE_SECONDS: Final = 2.0
_WRITE_ERROR: Final = "write error"

_log = get_logger()


class Fault(NamedTuple):
    """What is wrong with a part, and how long that may last before the part is restarted."""

    what: str
    allowed_seconds: float


NOT_LISTENING: Final = Fault("it does not listen", START_SECONDS)
NO_ANSWER: Final = Fault("it did not answer", SILENT_SECONDS)


class Part:
    """A process that is to run until `stop`."""

    def __init__(
        self,
        process: Process,
        start: Callable[[], Awaitable[Process]],
        ask: Callable[[], Awaitable[Fault | None]],
        has_space: Callable[[], bool],
        *,
        is_vital: bool = True,
    ) -> None:
        """Take a running process; `start` starts it again, which cannot work while the disk has no space.

        The system goes on without a part that is not vital and dies too often; it is started again later.
        """
        self.name = process.command.name
        self._process = process
        self._start = start
        self._ask_health = ask
        self._has_space = has_space
        self._is_vital = is_vital
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self._faults: deque[float] = deque(maxlen=DEATHS_MAX)

    @property
    def pid(self) -> int:
        """The id of the present process."""
        return self._process.pid

    async def keep(self, say: Say) -> None:
        """Start it again whenever it has ended or is unhealthy. Raises `ChildFailed` if that happens too often."""
        while True:
            fault = await self._watch()
            code = await self._process.ended()
            how = f"was ended ({fault.what})" if fault else f"ended ({_meaning(code)})"
            say(f"{self.name:<10} {how}, is started again")
            _log.warning("part_ended", part=self.name, reason=how)
            # Counted apart: a full disk may end NATS several times while it also dies of something else.
            recent = self._faults if fault else self._deaths
            try:
                self._process = await self._restarted(self._process.failure(how), recent, say)
                _log.info("part_started", part=self.name, pid=self.pid)
            except ChildFailed as error:
                if self._is_vital:
                    raise
                say(f"{self.name:<10} is left out for {DEATHS_SECONDS:.0f} seconds: {error.message}")
                _log.error("part_left_out", part=self.name, seconds=DEATHS_SECONDS, error=_first_line(error))
                await asyncio.sleep(DEATHS_SECONDS)

    async def stop(self) -> None:
        """End it, after `keep` has ended."""
        await self._process.stop()

    async def _watch(self) -> Fault | None:
        """Return when it has ended; end it if it is unhealthy for too long, and return its fault."""
        healthy_at = asked_at = time.monotonic()
        while self._process.is_running:
            await asyncio.sleep(WATCH_SECONDS)
            if time.monotonic() - asked_at < ASK_SECONDS:
                continue
            fault = await self._ask()
            asked_at = time.monotonic()
            if fault is None:
                healthy_at = asked_at
            elif asked_at - healthy_at > fault.allowed_seconds and self._has_space():
                await self._process.stop(wait_seconds=UNHEALTHY_STOP_SECONDS)
                return fault
        return None

    async def _ask(self) -> Fault | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._ask_health()
        except TimeoutError:
            return NO_ANSWER

    async def _restarted(self, failure: ChildFailed, recent: deque[float], say: Say) -> Process:
        while True:
            # A death on a full disk has a known cause, and does not count.
            if not await self._wait_for_space(say):
                self._count(failure, recent)
            await asyncio.sleep(BACKOFF_SECONDS[min(len(recent), len(BACKOFF_SECONDS)) - 1])
            try:
                return await self._start()
            except ChildFailed as error:
                failure = error
            except (EmbeddedError, OSError) as error:
                failure = ChildFailed(f"{self.name} could not be started: {error}")
            _log.warning("part_not_started", part=self.name, error=_first_line(failure))

    async def _wait_for_space(self, say: Say) -> bool:
        """Wait until the disk has space; return whether this was necessary."""
        if self._has_space():
            return False
        say(f"{self.name:<10} waits: the disk of the data folder is full")
        _log.warning("disk_full", part=self.name)
        while not self._has_space():  # noqa: ASYNC110 - there is no event for space on a disk.
            await asyncio.sleep(SPACE_SECONDS)
        return True

    def _count(self, failure: ChildFailed, recent: deque[float]) -> None:
        now = time.monotonic()
        recent.append(now)
        if len(recent) == DEATHS_MAX and now - recent[0] <= DEATHS_SECONDS:
            what = "was unhealthy" if recent is self._faults else "died"
            message = f"{self.name} {what} {DEATHS_MAX} times within {DEATHS_SECONDS:.0f} seconds"
            raise ChildFailed(f"{message}: {failure.message}")


def _first_line(error: ChildFailed) -> str:
    """Return the error without the end of the part's log, which has a file of its own."""
    return error.message.partition("\n")[0]


def _meaning(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


@asynccontextmanager
async def kept(parts: Sequence[Part], say: Say) -> AsyncIterator[None]:
    """Keep the parts running as long as the block runs. Raises what ends one of them for good."""
    with raising_first():
        async with asyncio.TaskGroup() as tasks:
            keeping = [tasks.create_task(part.keep(say), name=part.name) for part in parts]
            yield
            for task in keeping:
                task.cancel()


async def service_fault(url: str) -> Fault | None:
    """Ask a service's `/healthz`."""
    try:
        answer = await get(f"{url}/healthz", seconds=ANSWER_SECONDS)
    except (TimeoutError, BadAnswer):
        return NO_ANSWER
    except OSError:
        return NOT_LISTENING
    return None if answer.status == 200 else Fault(f"/healthz answered {answer.status}", SILENT_SECONDS)


async def nats_fault(server: NatsServer) -> Fault | None:
    """Ask nats-server's monitoring whether the log can be written.

    After a failed write, its stream takes no event until the server is restarted; its bound is set when it starts.
    """
    try:
        health = await get(f"{server.monitor}/healthz", seconds=ANSWER_SECONDS)
        if health.status != 200:
            error = json_text.object_in(health.body).get("error")
            what = str(error or f"/healthz answered {health.status}")
            return Fault(what, UNWRITABLE_SECONDS if _WRITE_ERROR in what else SILENT_SECONDS)
        answer = await get(f"{server.monitor}/jsz", seconds=ANSWER_SECONDS)
    except (TimeoutError, BadAnswer):
        return NO_ANSWER
    except OSError:
        return NOT_LISTENING
    found = json_text.object_in(answer.body)
    is_full = "config" in found and found["config"]["max_storage"] - found["storage"] < BATCH_BYTES_MAX
    if is_full and space_bytes(server.home) > SPACE_AT_BOUND_BYTES:
        return Fault("the log has reached its bound, and the disk has space", UNWRITABLE_SECONDS)
    return None


async def postgres_fault(server: PostgresServer) -> Fault | None:
    """Ask PostgreSQL for a connection; a refusal is an answer."""
    return None if await server.answers() else NOT_LISTENING
