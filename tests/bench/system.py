"""Systems to measure: servers alone or the whole system, in a temporary folder.

Used by the measurements.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psutil

from bench.report import Durability
from refold.core.errors import ChildFailed, Refused
from refold.wiring.servers import Servers, make_log, running_servers
from refold.wiring.settings import Settings, load
from refold.wiring.system import running_system

PREFIX: Final = "refold-bench-"
SERVER_MARKS: Final = {"nats": "nats-server", "postgres": "postgres"}
SERVICE_MODULE: Final = "refold.wiring.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of every measurement; `say` is called with progress messages."""

    rounds: int = 3
    durability: Durability = "fsync"
    url: str | None = None
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """The servers and a log, without services."""

    servers: Servers
    folder: Path

    @property
    def pids(self) -> list[tuple[str, int]]:
        """Names and ids of the processes."""
        return [("nats", self.servers.nats.child.pid), ("postgres", self.servers.postgres.child.pid)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The system as `refold up` runs it, and settings that reach its servers."""

    http: str
    nats: str
    reached: Settings
    folder: Path

    @property
    def pids(self) -> list[tuple[str, int]]:
        """Names and ids of the current processes; the supervisor restarts one that dies."""
        return [*_services(), *_servers(self.folder)]

    def pid(self, name: str) -> int:
        """Return the id of one of them."""
        return dict(self.pids)[name]


@asynccontextmanager
async def bare_servers(options: Options) -> AsyncIterator[Bare]:
    """Start both servers and make the log."""
    with TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        async with running_servers(folder, durability=_kept(options)) as servers:
            await make_log(servers.nats.url("administrator"))
            yield Bare(servers=servers, folder=folder)


@asynccontextmanager
async def whole_system(options: Options, **settings: Any) -> AsyncIterator[Whole]:
    """Start everything."""
    with TemporaryDirectory(prefix=PREFIX) as name:
        # Imported here only: tasks import this module too, and would wait for it.
        from refold.wiring.servers import reach  # noqa: PLC0415

        folder = Path(name)
        given = load(
            data=folder,
            http="127.0.0.1:0",
            nats_port=0,
            durability=_kept(options),
            log_level="warning",
            **settings,
        )
        async with running_system(given, lambda _: None) as system:
            yield Whole(http=system.http, nats=system.nats, reached=reach(folder), folder=folder)


def refuse_url(options: Options, why: str) -> None:
    """Refuse a running system if the measurement needs one of its own."""
    if options.url is not None:
        raise Refused("bad_usage", f"takes no address: {why}", field="--url")


def _kept(options: Options) -> Any:
    return options.durability


def _services() -> list[tuple[str, int]]:
    found = []
    for child in psutil.Process().children():
        words = _words(child)
        if SERVICE_MODULE in words:
            found.append((words[words.index(SERVICE_MODULE) + 1], child.pid))
    return found


def _servers(folder: Path) -> list[tuple[str, int]]:
    """Find the servers that run in a folder; other systems may run beside them."""
    found = []
    for child in psutil.Process().children():
        program = Path((_words(child) or [""])[0]).name
        names = [name for name, mark in SERVER_MARKS.items() if program.startswith(mark)]
        if names and Path(child.cwd()).is_relative_to(folder):
            found.append((names[0], child.pid))
    if len(found) != len(SERVER_MARKS):
        raise ChildFailed(f"of the servers only {found} run")
    return found


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
