"""Keep the parts of the system running: a part that has ended or is unhealthy for too long is started again.

Used by `refold.wiring.system`. A part is asked in the way that any client would: HTTP probes, a connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import orjson

from refold.core.errors import ChildFailed, EmbeddedError
from refold.embedded.postgres import PostgresServer
from refold.embedded.process import START_SECONDS, Process
from refold.log import BATCH_BYTES_MAX

DEATHS_MAX: Final = 5
DEATHS_SECONDS: Final = 60.0
"""A part ends the system if it dies, or is unhealthy, this often within this time."""
BACKOFF_SECONDS: Final = (0.0, 0.5, 1.0, 2.0)
"""Pause before a restart, by the number of recent restarts of the same kind."""
WATCH_SECONDS: Final = 0.1
"""How often a running process is looked at."""
ASK_SECONDS: Final = 2.0
"""How often a part is asked whether it is healthy."""
ANSWER_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 30.0
"""A part that has not answered for this long is hung; a busy machine is slow, but not that slow."""
UNHEALTHY_STOP_SECONDS: Final = 5.0
"""How long an unhealthy part may take to end by itself before it is killed."""
ROOM_SECONDS: Final = 1.0
"""How often the disk is looked at while it is full."""
ROOM_AT_BOUND_BYTES: Final = 32 * 1024 * 1024
"""A NATS server at its bound is restarted only if its bound would grow by more than this."""
UNWRITABLE_SECONDS: Final = 2.0
_WRITE_ERROR: Final = "write error"


class Fault(NamedTuple):
    """What is wrong with a part, and how long that may last before the part is restarted."""

    what: str
    allowed_seconds: float


NOT_LISTENING: Final = Fault("it does not listen", START_SECONDS)

Ask = Callable[[], Awaitable[Fault | None]]
"""Asks a part whether it is healthy; None if nothing is wrong."""


class Part:
    """A process that is to run until `stop`."""

    def __init__(
        self,
        name: str,
        process: Process,
        start: Callable[[], Awaitable[Process]],
        ask: Ask,
        *,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take a running process; `start` starts it again, which cannot work while the disk has no room."""
        self.name = name
        self._process = process
        self._start = start
        self._ask_health = ask
        self._has_room = has_room
        self._deaths: deque[float] = deque(maxlen=DEATHS_MAX)
        self._faults: deque[float] = deque(maxlen=DEATHS_MAX)

    @property
    def pid(self) -> int:
        """The id of the present process."""
        return self._process.pid

    async def keep(self, say: Callable[[str], None]) -> None:
        """Start it again whenever it has ended or is unhealthy. Raises `ChildFailed` if that happens too often."""
        while True:
            fault = await self._until_over()
            what = f"was ended ({fault.what})" if fault else _ending(await self._process.ended())
            say(f"{self.name:<10} {what}, is started again")
            # Counted apart: a full disk may end NATS several times while it also dies of something else.
            recent = self._faults if fault else self._deaths
            self._process = await self._restarted(self._process.failure(what), recent, say)

    async def stop(self) -> None:
        """End it, after `keep` has ended."""
        await self._process.stop()

    async def _until_over(self) -> Fault | None:
        """Wait until it has ended, or end it if it is unhealthy for too long; return its fault."""
        ending = asyncio.create_task(
            self._process.ended(poll_seconds=WATCH_SECONDS), name=f"{self.name} ends"
        )
        watching = asyncio.create_task(self._watch(), name=f"{self.name} answers")
        try:
            await asyncio.wait({ending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                return None
            fault = watching.result()
            await self._process.stop(wait_seconds=UNHEALTHY_STOP_SECONDS)
            return fault
        finally:
            for task in (ending, watching):
                task.cancel()
            await asyncio.wait({ending, watching})

    async def _watch(self) -> Fault:
        """Return the fault that has lasted for too long."""
        healthy_at = time.monotonic()
        while True:
            await asyncio.sleep(ASK_SECONDS)
            fault = await self._ask()
            if fault is None:
                healthy_at = time.monotonic()
            elif time.monotonic() - healthy_at > fault.allowed_seconds and self._has_room():
                return fault

    async def _ask(self) -> Fault | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._ask_health()
        except TimeoutError:
            return Fault("it did not answer", SILENT_SECONDS)

    async def _restarted(
        self, failure: ChildFailed, recent: deque[float], say: Callable[[str], None]
    ) -> Process:
        while True:
            # A death on a full disk has a known cause, and does not count.
            if not await self._wait_for_room(say):
                self._count(failure, recent)
            await asyncio.sleep(BACKOFF_SECONDS[min(len(recent), len(BACKOFF_SECONDS)) - 1])
            try:
                return await self._start()
            except ChildFailed as error:
                failure = error
            except (EmbeddedError, OSError) as error:
                failure = ChildFailed(f"{self.name} could not be started: {error}")

    async def _wait_for_room(self, say: Callable[[str], None]) -> bool:
        """Wait until the disk has room; return whether this was necessary."""
        if self._has_room():
            return False
        say(f"{self.name:<10} waits: the disk of the data folder is full")
        while not self._has_room():  # noqa: ASYNC110 - there is no event for room on a disk.
            await asyncio.sleep(ROOM_SECONDS)
        return True

    def _count(self, failure: ChildFailed, recent: deque[float]) -> None:
        now = time.monotonic()
        recent.append(now)
        if len(recent) == DEATHS_MAX and now - recent[0] <= DEATHS_SECONDS:
            what = "was unhealthy" if recent is self._faults else "died"
            message = f"{self.name} {what} {DEATHS_MAX} times within {DEATHS_SECONDS:.0f} seconds"
            raise ChildFailed(f"{message}: {failure.message}")


def _ending(code: int) -> str:
    return f"ended (exit code {code})" if code >= 0 else f"ended (signal {-code})"


async def service_fault(host: str, port: int) -> Fault | None:
    """Ask a service's `/healthz`."""
    try:
        status, _ = await get(host, port, "/healthz")
    except OSError:
        return NOT_LISTENING
    return None if status == 200 else Fault(f"/healthz answered {status}", SILENT_SECONDS)


async def nats_fault(host: str, port: int, room: Callable[[], int]) -> Fault | None:
    """Ask nats-server's monitoring whether the log can be written; `room` returns how many bytes it may grow.

    After a failed write, its stream takes no event until the server is restarted; its bound is set when it starts.
    """
    try:
        status, body = await get(host, port, "/healthz")
        if status != 200:
            what = _error_in(body) or f"/healthz answered {status}"
            return Fault(what, UNWRITABLE_SECONDS if _WRITE_ERROR in what else SILENT_SECONDS)
        left = _left_bytes((await get(host, port, "/jsz"))[1])
    except OSError:
        return NOT_LISTENING
    if left is not None and left < BATCH_BYTES_MAX and room() > ROOM_AT_BOUND_BYTES:
        return Fault("the log has reached its bound, and the disk has room", UNWRITABLE_SECONDS)
    return None


async def postgres_fault(server: PostgresServer) -> Fault | None:
    """Ask PostgreSQL for a connection; a refusal is an answer."""
    return None if await server.answers() else NOT_LISTENING


async def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """Send a GET; return status and body. Raises `OSError` if nothing listens."""
    reader, writer = await asyncio.open_connection(host.strip("[]"), port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        status = head.split(b" ", 2)[1:2]
        return (int(status[0]) if status and status[0].isdigit() else 0), body
    finally:
        writer.close()


def _error_in(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return ""


def _left_bytes(body: bytes) -> int | None:
    """Return how many bytes are left to the server's bound; None if it does not say."""
    try:
        found = orjson.loads(body)
        return int(found["config"]["max_storage"]) - int(found["storage"])
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
        return None
