"""The whole system on this machine: both servers, the log, projector and gateway, each kept running.

Used by `refold up`, `refold demo` and measurements. It ends in this order: gateway, projector, NATS, PostgreSQL.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from refold.core import json_text
from refold.core.errors import TimedOut
from refold.embedded.nats import room_bytes, start_nats
from refold.embedded.postgres import start_postgres
from refold.embedded.process import LOOPBACK, START_SECONDS, Command, LogFile, Process, choose_port
from refold.telemetry.logging import configure
from refold.wiring.log import make_embedded_log, refuse_damaged
from refold.wiring.servers import Servers, start_servers
from refold.wiring.service import stop_on_signals
from refold.wiring.settings import Settings, environment_without, handed_on, split_address
from refold.wiring.supervise import WATCH_SECONDS, Part, get, nats_fault, postgres_fault, service_fault

Say = Callable[[str], None]

SERVICES: Final = ("projector", "gateway")
LOOK_SECONDS: Final = 0.05
ROOM_BYTES_MIN: Final = 32 * 1024 * 1024
"""With less room, neither server can start: a WAL file of PostgreSQL has 16 MiB, a block of the log 8."""
SAY_SECONDS: Final = 5.0
"""A start that takes longer than this says what it waits for, this often."""
PROBE_SECONDS: Final = 10.0
"""One request to the readiness probe."""
ANYWHERE: Final = frozenset({"0.0.0.0", "::"})


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that is ready. `postgres` is its address without the password."""

    http: str
    nats: str
    postgres: str


async def up(settings: Settings, say: Say) -> None:
    """Run the system until a signal; say a line a part, then `ready` with the addresses."""
    configure(settings.log_level, service="up")

    def say_if_possible(line: str) -> None:
        # A terminal that is gone, or a full disk behind stdout, must not end the system.
        with suppress(OSError):
            say(line)

    async def serve() -> None:
        async with running_system(settings, say_if_possible) as system:
            folder = settings.data.absolute()
            say_if_possible(f"commands   find it by --data {folder}, or by REFOLD_DATA={folder}")
            say_if_possible(f"ready      {system.http}  {system.nats}  {system.postgres}")
            await asyncio.Event().wait()

    await until_signal(serve(), say_if_possible)


async def until_signal(work: Awaitable[None], say: Say) -> None:
    """Await something; a signal that asks to stop cancels it and waits until it has cleaned up."""
    stop = stop_on_signals()
    working = asyncio.ensure_future(work)
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        await working
        return
    say("stopping")
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    say("stopped")


@asynccontextmanager
async def running_system(settings: Settings, say: Say) -> AsyncIterator[System]:
    """Start everything, run the block once it is ready, keep it running, end it.

    Raises `ChildFailed` if a part dies too often.
    """
    port = choose_port(settings.http_host, settings.http_port)
    url = f"http://{_reached(settings.http_host)}:{port}"
    probe_host, probe_port = split_address(settings.probe)
    probe = _reached(probe_host), choose_port(probe_host, probe_port)
    probes = {"projector": probe, "gateway": (_reached(settings.http_host), port)}
    async with AsyncExitStack() as endings:
        # They load their code while the servers start.
        processes = {name: start_service(name) for name in SERVICES}
        for process in processes.values():
            endings.push_async_callback(process.stop)
        servers = await start_servers(
            settings.data,
            durability=settings.durability,
            nats_port=settings.nats_port,
            postgres_port=settings.postgres_port,
        )
        endings.push_async_callback(servers.stop)
        log_id = await make_embedded_log(servers, settings.postgres_schema)
        await refuse_damaged(servers, settings.postgres_schema, log_id)
        _say_servers(servers, settings, log_id, say)
        parts = _server_parts(servers, settings, say)
        given: dict[str, object] = {
            "http": f"{_bracketed(settings.http_host)}:{port}",
            "probe": f"{_bracketed(probe_host)}:{probe[1]}",
        }
        for name, flags in _flags(servers, settings, given).items():
            parts.append(_service_part(processes[name], flags, servers.folder.path, probes[name]))
            say(f"{name:<10} process {parts[-1].pid}")
        for part in parts:
            endings.push_async_callback(part.stop)
        async with _kept(parts, say):
            await _until_ready(_reached(settings.http_host), port, say)
            servers.write_endpoints(http=url, probe=f"http://{probe[0]}:{probe[1]}", settings=settings)
            yield System(http=url, nats=servers.nats.address, postgres=servers.postgres.address)


@asynccontextmanager
async def _kept(parts: list[Part], say: Say) -> AsyncIterator[None]:
    try:
        async with asyncio.TaskGroup() as tasks:
            keeping = [tasks.create_task(part.keep(say), name=part.name) for part in parts]
            yield
            for task in keeping:
                task.cancel()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


def start_service(name: str) -> Process:
    """Start a service's process; it loads its code, then waits for its settings (`Process.hand`)."""
    return Process(
        Command(
            name=name,
            arguments=(sys.executable, "-m", "refold.wiring.service", name),
            environment=environment_without(),
            stop_signal=signal.SIGTERM,
        )
    )


def _flags(servers: Servers, settings: Settings, given: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return each service's settings: each is a NATS user of its own, and none the administrator."""
    nats = servers.nats
    both = {**given, "postgres_url": servers.postgres.dsn, "nats_admin_url": None}
    users = {"nats_url": nats.url("projector"), "nats_reply_url": nats.url("reply")}
    return {
        "projector": handed_on(settings, **both, **users),
        "gateway": handed_on(settings, **both, nats_url=nats.url("gateway"), nats_reply_url=None),
    }


def _service_part(process: Process, flags: dict[str, object], folder: Path, probe: tuple[str, int]) -> Part:
    name = process.command.name

    def hand(started: Process) -> Process:
        # Through a pipe, because everyone can read a process's arguments.
        started.hand(json_text.dumps(flags) + b"\n", LogFile(folder / f"{name}.log"))
        return started

    async def start() -> Process:
        return hand(start_service(name))

    return Part(
        name, hand(process), start, partial(service_fault, *probe), has_room=partial(_has_room, folder)
    )


def _server_parts(servers: Servers, settings: Settings, say: Say) -> list[Part]:
    """Return PostgreSQL first: parts are ended from the last to the first."""
    folder = servers.folder

    async def start_postgres_again() -> Process:
        return (await start_postgres(folder, port=servers.postgres.port)).child

    async def start_nats_again() -> Process:
        port, monitor_port = servers.nats.port, servers.nats.monitor_port
        started = await start_nats(folder, port=port, monitor_port=monitor_port, sync=settings.durability)
        for loss in started.losses:
            say(f"nats       {loss}")
        # It may have come back with less than it had; then nothing may continue.
        await make_embedded_log(replace(servers, nats=started), settings.postgres_schema)
        return started.child

    room = partial(room_bytes, folder.path / "nats")
    ask_nats = partial(nats_fault, LOOPBACK, servers.nats.monitor_port, room)
    ask_postgres = partial(postgres_fault, servers.postgres)
    has_room = partial(_has_room, folder.path)
    return [
        Part("postgres", servers.postgres.child, start_postgres_again, ask_postgres, has_room=has_room),
        Part("nats", servers.nats.child, start_nats_again, ask_nats, has_room=has_room),
    ]


def _has_room(folder: Path) -> bool:
    """Return whether the servers can start: each needs room for one file of its log."""
    return shutil.disk_usage(folder).free >= ROOM_BYTES_MIN


def _say_servers(servers: Servers, settings: Settings, log_id: str, say: Say) -> None:
    say(f"postgres   {servers.postgres.host}:{servers.postgres.port}")
    say(f"nats       {servers.nats.host}:{servers.nats.port}")
    for loss in servers.nats.losses:
        say(f"           {loss}")
    is_safe = settings.durability == "fsync"
    flushed = "" if is_safe else ", durability os: the last moments may be lost with the machine's power"
    say(f"log        {log_id}{flushed}")


async def _until_ready(host: str, port: int, say: Say) -> None:
    """Wait for the gateway's readiness probe. Raises `TimedOut` if nothing makes progress for too long."""
    loop = asyncio.get_running_loop()
    deadline, say_at, folded_sequence = loop.time() + START_SECONDS, loop.time() + SAY_SECONDS, -1
    pause = LOOK_SECONDS
    while (problem := await _not_ready(host, port)) is not None:
        now = loop.time()
        if problem.get("folded_sequence", -1) > folded_sequence:
            folded_sequence, deadline = problem["folded_sequence"], now + START_SECONDS
        if now >= deadline:
            detail = problem.get("detail", "the gateway does not answer")
            raise TimedOut(f"the system was not ready in time: {detail}", seconds=START_SECONDS)
        if now >= say_at:
            say(f"waiting    {_waited_for(problem)}")
            say_at, pause = now + SAY_SECONDS, WATCH_SECONDS
        await asyncio.sleep(pause)


def _waited_for(problem: dict[str, Any]) -> str:
    detail = str(problem.get("detail", "the gateway does not answer yet"))
    if "required_sequence" not in problem:
        return detail
    folded, required = problem["folded_sequence"], problem["required_sequence"]
    progress = f"projection is being folded: {folded:,} of {required:,} events"
    # The projection is named last, after what may keep it from going on.
    others = detail.partition("projection: projection_behind")[0].rstrip("; ")
    return f"{progress}; {others}" if others else progress


async def _not_ready(host: str, port: int) -> dict[str, Any] | None:
    """Return the readiness probe's problem document, empty if there is none; None when it is ready."""
    # A response that is cut off: the gateway has just ended.
    with suppress(OSError, orjson.JSONDecodeError):
        async with asyncio.timeout(PROBE_SECONDS):
            status, body = await get(host, port, "/readyz")
        if status == 200:
            return None
        if status == 503:
            problem: dict[str, Any] = orjson.loads(body)
            return problem
    return {}


def _reached(host: str) -> str:
    """Return the host by which a listener on all addresses is reached from this machine."""
    return LOOPBACK if host in ANYWHERE else _bracketed(host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
