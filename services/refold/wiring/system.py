"""The whole system on this machine: both servers, the log, projector and gateway, each kept alive.

Used by `refold.wiring.up` and `refold.wiring.demo`. It ends in this order: gateway, projector, NATS, PostgreSQL.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from refold.core.errors import ChildFailed, TimedOut
from refold.core.limits import CHILD_START_SECONDS, CHILD_STOP_SECONDS
from refold.embedded.nats import NatsServer, room_bytes, start_nats
from refold.embedded.ports import LOOPBACK
from refold.embedded.postgres import PostgresServer, start_postgres
from refold.embedded.system import Servers, start_servers
from refold.wiring.health import get, nats_fault, postgres_fault
from refold.wiring.log import make_embedded_log, refuse_damaged
from refold.wiring.part import Fault, Part, Running
from refold.wiring.service_process import ServiceProcess, start_service
from refold.wiring.serving import chosen_port
from refold.wiring.settings import Settings, handed_on, split_address

Say = Callable[[str], None]

SERVICES: Final = ("projector", "gateway")
LOOK_SECONDS: Final = 0.05
WATCH_SECONDS: Final = 0.25
ROOM_BYTES_MIN: Final = 32 * 1024 * 1024
"""With less room, neither server can start: a WAL file of PostgreSQL has 16 MiB, a block of the log 8."""

SAY_SECONDS: Final = 5.0
"""A start that takes longer than this says what it waits for, this often."""
PROBE_SECONDS: Final = 10.0
"""One look at the readiness probe."""
ANYWHERE: Final = frozenset({"0.0.0.0", "::"})


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that is ready. `postgres` is its address without the password."""

    http: str
    nats: str
    postgres: str


@asynccontextmanager
async def running_system(settings: Settings, say: Say) -> AsyncIterator[System]:
    """Start everything, go on when it is ready, keep it alive, end it; a part that keeps dying ends it all."""
    port = chosen_port(settings.http_host, settings.http_port)
    url = f"http://{_reached(settings.http_host)}:{port}"
    probe_host, probe_port = split_address(settings.probe)
    probe = _reached(probe_host), chosen_port(probe_host, probe_port)
    probes = {"projector": probe, "gateway": (_reached(settings.http_host), port)}
    async with AsyncExitStack() as endings:
        # While the servers start, these load their code.
        processes = {name: await start_service(name) for name in SERVICES}
        for process in processes.values():
            endings.push_async_callback(process.stop)
        servers = await start_servers(
            settings.data, durability=settings.durability, nats_port=settings.nats_port
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
            servers.write_endpoints(http=url, probe=f"http://{probe[0]}:{probe[1]}")
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


def _flags(servers: Servers, settings: Settings, given: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return each service's settings: every one is its own user of NATS, and none the administrator."""
    nats = servers.nats
    both = {**given, "postgres_url": servers.postgres.dsn, "nats_admin_url": None}
    users = {"nats_url": nats.url("projector"), "nats_reply_url": nats.url("reply")}
    return {
        "projector": handed_on(settings, **both, **users),
        "gateway": handed_on(settings, **both, nats_url=nats.url("gateway"), nats_reply_url=None),
    }


def _service_part(
    process: ServiceProcess, flags: dict[str, object], folder: Path, probe: tuple[str, int]
) -> Part:
    log = folder / f"{process.name}.log"

    async def start() -> Running:
        started = await start_service(process.name)
        started.hand(flags, log, probe)
        return started

    process.hand(flags, log, probe)
    return Part(process.name, process, start, has_room=partial(_has_room, folder))


def _server_parts(servers: Servers, settings: Settings, say: Say) -> list[Part]:
    """Postgres first: parts are ended from the last to the first."""

    async def postgres() -> Running:
        return _Server(await start_postgres(servers.folder, port=servers.postgres.port))

    async def nats() -> Running:
        port, monitor_port = servers.nats.port, servers.nats.monitor_port
        started = await start_nats(
            servers.folder, port=port, monitor_port=monitor_port, sync=settings.durability
        )
        for loss in started.losses:
            say(f"nats       {loss}")
        # It may have come back with less than it had: nothing may go on then.
        await make_embedded_log(replace(servers, nats=started), settings.postgres_schema)
        return _Server(started)

    has_room = partial(_has_room, servers.folder.path)
    return [
        Part("postgres", _Server(servers.postgres), postgres, has_room=has_room),
        Part("nats", _Server(servers.nats), nats, has_room=has_room),
    ]


def _has_room(folder: Path) -> bool:
    """Tell whether the servers can start: each needs room for one file of its log."""
    return shutil.disk_usage(folder).free >= ROOM_BYTES_MIN


class _Server:
    """A server of `refold.embedded`, as a part."""

    def __init__(self, server: NatsServer | PostgresServer) -> None:
        self._server = server

    @property
    def pid(self) -> int:
        return self._server.child.pid

    async def ended(self) -> int:
        # Watched for as long as the system runs: more rarely than while it starts or ends.
        while True:
            code = self._server.child.exit_code
            if code is not None:
                return code
            await asyncio.sleep(WATCH_SECONDS)

    async def fault(self) -> Fault | None:
        if isinstance(self._server, NatsServer):
            room = partial(room_bytes, self._server.child.command.folder)
            return await nats_fault(LOOPBACK, self._server.monitor_port, room)
        return await postgres_fault(self._server)

    async def stop(self, *, wait_seconds: float = CHILD_STOP_SECONDS) -> None:
        await self._server.stop(wait_seconds=wait_seconds)

    def failure(self, what: str) -> ChildFailed:
        return self._server.child.failure(what)


def _say_servers(servers: Servers, settings: Settings, log_id: str, say: Say) -> None:
    say(f"postgres   {servers.postgres.host}:{servers.postgres.port}")
    say(f"nats       {servers.nats.host}:{servers.nats.port}")
    for loss in servers.nats.losses:
        say(f"           {loss}")
    is_safe = settings.durability == "fsync"
    flushed = "" if is_safe else ", durability os: the last moments may be lost with the machine's power"
    say(f"log        {log_id}{flushed}")


async def _until_ready(host: str, port: int, say: Say) -> None:
    """Ask the gateway's readiness probe until it is ready; give up where nothing has moved for too long."""
    loop = asyncio.get_running_loop()
    deadline, say_at, folded_sequence = loop.time() + CHILD_START_SECONDS, loop.time() + SAY_SECONDS, -1
    pause = LOOK_SECONDS
    while (why := await _not_ready(host, port)) is not None:
        now = loop.time()
        if why.get("folded_sequence", -1) > folded_sequence:
            folded_sequence, deadline = why["folded_sequence"], now + CHILD_START_SECONDS
        if now >= deadline:
            detail = why.get("detail", "the gateway does not answer")
            raise TimedOut(f"the system was not ready in time: {detail}", seconds=CHILD_START_SECONDS)
        if now >= say_at:
            say(f"waiting    {_waited_for(why)}")
            say_at, pause = now + SAY_SECONDS, WATCH_SECONDS
        await asyncio.sleep(pause)


def _waited_for(why: dict[str, Any]) -> str:
    if "required_sequence" in why:
        return (
            f"projection is being folded: {why['folded_sequence']:,} of {why['required_sequence']:,} events"
        )
    return str(why.get("detail", "the gateway does not answer yet"))


async def _not_ready(host: str, port: int) -> dict[str, Any] | None:
    """Return the problem document of the readiness probe, empty where there is none; None when it is ready."""
    # An answer that is cut off is none: the gateway has just ended.
    with suppress(OSError, orjson.JSONDecodeError):
        async with asyncio.timeout(PROBE_SECONDS):
            status, body = await get(host, port, "/readyz")
        if status == 200:
            return None
        if status == 503:
            view: dict[str, Any] = orjson.loads(body)
            return view
    return {}


def _reached(host: str) -> str:
    """Return where a listener on all addresses is reached from here."""
    return "127.0.0.1" if host in ANYWHERE else _bracketed(host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
