"""The whole system on this machine: both servers, the log, projector and gateway, each kept alive.

Used by `refold.wiring.up` and `refold.wiring.demo`. It ends in this order: gateway, projector, NATS, PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from refold.core.errors import ChildFailed, TimedOut
from refold.core.limits import CHILD_START_SECONDS
from refold.embedded.nats import NatsServer, start_nats
from refold.embedded.postgres import PostgresServer, start_postgres
from refold.embedded.system import Servers, start_servers
from refold.wiring.log import make_log
from refold.wiring.part import Part, Running
from refold.wiring.service_process import ServiceProcess, start_service
from refold.wiring.serving import chosen_port
from refold.wiring.settings import Settings, handed_on

Say = Callable[[str], None]

SERVICES: Final = ("projector", "gateway")
LOOK_SECONDS: Final = 0.05
WATCH_SECONDS: Final = 0.25
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
    async with AsyncExitStack() as endings:
        # While the servers start, these load their code.
        processes = {name: await start_service(name) for name in SERVICES}
        for process in processes.values():
            endings.push_async_callback(process.stop)
        servers = await start_servers(
            settings.data, durability=settings.durability, nats_port=settings.nats_port
        )
        endings.push_async_callback(servers.stop)
        log_id = await make_log(servers.nats.url("administrator"))
        _say_servers(servers, settings, log_id, say)
        parts = _server_parts(servers, settings)
        for name, flags in _flags(servers, settings, port).items():
            parts.append(_service_part(processes[name], flags, servers.folder.path / f"{name}.log"))
            say(f"{name:<10} process {parts[-1].pid}")
        for part in parts:
            endings.push_async_callback(part.stop)
        async with _kept(parts, say):
            await _until_ready(_reached(settings.http_host), port, say)
            servers.write_endpoints(http=url)
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


def _flags(servers: Servers, settings: Settings, port: int) -> dict[str, dict[str, object]]:
    """Return each service's settings: every one is its own user of NATS, and none the administrator."""
    nats = servers.nats
    given = {
        "http": f"{_bracketed(settings.http_host)}:{port}",
        "postgres_url": servers.postgres.dsn,
        "nats_admin_url": None,
    }
    users = {"nats_url": nats.url("projector"), "nats_reply_url": nats.url("reply")}
    return {
        "projector": handed_on(settings, **given, **users),
        "gateway": handed_on(settings, **given, nats_url=nats.url("gateway"), nats_reply_url=None),
    }


def _service_part(process: ServiceProcess, flags: dict[str, object], log: Path) -> Part:
    async def start() -> Running:
        started = await start_service(process.name)
        started.hand(flags, log)
        return started

    process.hand(flags, log)
    return Part(process.name, process, start)


def _server_parts(servers: Servers, settings: Settings) -> list[Part]:
    """Postgres first: parts are ended from the last to the first."""

    async def postgres() -> Running:
        return _Server(await start_postgres(servers.folder, port=servers.postgres.port))

    async def nats() -> Running:
        port, sync = servers.nats.port, settings.durability
        return _Server(await start_nats(servers.folder, port=port, sync=sync))

    return [
        Part("postgres", _Server(servers.postgres), postgres),
        Part("nats", _Server(servers.nats), nats),
    ]


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

    async def stop(self) -> None:
        await self._server.stop()

    def failure(self, what: str) -> ChildFailed:
        return self._server.child.failure(what)


def _say_servers(servers: Servers, settings: Settings, log_id: str, say: Say) -> None:
    say(f"postgres   {servers.postgres.host}:{servers.postgres.port}")
    say(f"nats       {servers.nats.host}:{servers.nats.port}")
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
            reader, writer = await asyncio.open_connection(host.strip("[]"), port)
            try:
                request = f"GET /readyz HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
                writer.write(request.encode())
                answer = await reader.read()
            finally:
                writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(b" ")[1:2]
        if status == [b"200"]:
            return None
        if status == [b"503"]:
            view: dict[str, Any] = orjson.loads(body)
            return view
    return {}


def _reached(host: str) -> str:
    """Return where a listener on all addresses is reached from here."""
    return "127.0.0.1" if host in ANYWHERE else _bracketed(host)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
