"""The NATS server as our child: its configuration, its users, its port. Whoever starts the system may use it.

Every user but the author has an inbox prefix of his own (`inbox_prefix`), which his client must be given.
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
from refold.core.limits import (
    CHILD_STOP_SECONDS,
    CONNECT_SECONDS,
    DISK_RESERVE_BYTES,
    DISK_RESERVE_SHARE,
    LOG_UNCOUNTED_SHARE,
    PAYLOAD_BYTES_MAX,
)
from refold.embedded import binaries
from refold.embedded.child import Child, Command, wait_ready
from refold.embedded.folder import DataFolder, write_private
from refold.embedded.log_files import BlockCopies, put_streams_aside, stored_blocks
from refold.embedded.ports import LOOPBACK, lost_port, port_taken, refuse_taken

Durability = Literal["fsync", "os"]
"""`fsync`: an acknowledged event survives power loss. `os`: for throw-away data."""

NatsUser = Literal["administrator", "projector", "reply", "gateway", "author"]
NATS_USERS: Final[tuple[NatsUser, ...]] = ("administrator", "projector", "reply", "gateway", "author")

_CONFIGURATION: Final = "nats.conf"
_COUNTED: Final = "nats/counted_bytes"
_SYNC_INTERVAL: Final = {"fsync": "always", "os": "2m"}
_ANY_PORT: Final = -1
_COMPLAINTS_MAX: Final = 3
_STORAGE_COMPLAINT: Final = re.compile(r"\[(WRN|ERR|FTL)\](?!.*Plaintext passwords)")

_MEMORY_BYTES: Final = 384 * 1024 * 1024
"""Over this, the server gives freed memory back at once. A target, not a bound: without it, 40 subscribers that did
not read left 882 MiB behind. A million documents take about 350 MiB."""


class _ConfigurationTemplate(Template):
    """`%{name}`, since `$` begins the broker's own subjects."""

    delimiter = "%"


@dataclass(frozen=True, kw_only=True, slots=True)
class NatsServer:
    """A running NATS server; `losses` says, a line each, what of the log's files it cut, deleted or did not read."""

    child: Child
    host: str
    port: int
    monitor_port: int
    passwords: dict[str, str] = field(repr=False)
    losses: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Give the address for anyone: who names no user is the author."""
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor(self) -> str:
        """Give the address of its health and metrics."""
        return f"http://{LOOPBACK}:{self.monitor_port}"

    def url(self, user: NatsUser) -> str:
        """Give the address with a user's name and password: a secret."""
        return f"nats://{user}:{self.passwords[user]}@{self.host}:{self.port}"

    def stored_blocks(self) -> list[str]:
        """Say in words what its storage holds; nothing where no event is stored."""
        return stored_blocks(self.child.command.folder)

    def put_streams_aside(self) -> list[Path]:
        """Move the folders of streams that the server has not read out of its way; return where they are."""
        return put_streams_aside(self.child.command.folder)

    def complaints(self) -> list[str]:
        """Return the last different warnings and errors that it has logged about its storage since it started."""
        log = self.child.command.logs[-1]
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        told = [line[line.index("[", 1) :] for line in lines if _STORAGE_COMPLAINT.search(line)]
        return list(dict.fromkeys(told))[-_COMPLAINTS_MAX:]

    async def stop(self, *, wait_seconds: float = CHILD_STOP_SECONDS) -> None:
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
    """Start the server and wait until it answers; ports 0 = any free one.

    `file_bytes_max` bounds the log in bytes before compression; left out = as much as the disk has room for.
    """
    refuse_taken(host, port)
    start = partial(_start, folder, port=port, monitor_port=monitor_port, host=host, sync=sync)
    if file_bytes_max:
        return await start(file_bytes_max=file_bytes_max)
    # The bound counts bytes before compression, which no file tells: only the running server knows.
    counted, room = _counted_bytes(folder), room_bytes(folder.path)
    server = await start(file_bytes_max=counted + room)
    used = await _used_bytes(server)
    if abs(used - counted) <= room * LOG_UNCOUNTED_SHARE:
        return server
    await server.stop()
    write_private(folder.path / _COUNTED, str(used).encode())
    return await start(file_bytes_max=used + room)


def inbox_prefix(user: NatsUser) -> str:
    """Give the inbox prefix that a user may listen on."""
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
        message = f"the log's files cannot be kept safe before NATS starts: {error}"
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
    return replace(server, losses=tuple(copies.settle(await _recovered(server))))


def _configuration(values: dict[str, object]) -> bytes:
    template = files(__package__).joinpath("nats.conf.template").read_text(encoding="utf-8")
    return _ConfigurationTemplate(template).substitute(values).encode()


def _command(home: Path) -> Command:
    arguments = (str(binaries.nats_server()), "-c", _CONFIGURATION, "--ports_file_dir", ".")
    return Command(
        name="nats",
        arguments=arguments,
        folder=home,
        logs=(home / "nats.log", home / "server.log"),
        variable=f"GOMEMLIMIT={_MEMORY_BYTES}",
    )


async def _listening(home: Path, host: str) -> tuple[int, int] | None:
    """Give the ports for clients and for monitoring once the server greets on the first."""
    ports = _told_ports(home)
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


def _told_ports(home: Path) -> tuple[int, int] | None:
    for told in home.glob("*.ports"):
        # It may be seen before it is written.
        with suppress(orjson.JSONDecodeError):
            found = orjson.loads(told.read_bytes())
            return _port_in(found["nats"][0]), _port_in(found["monitoring"][0])
    return None


def _port_in(address: str) -> int:
    return int(address.rpartition(":")[2])


async def _ask(server: NatsServer, subject: str) -> dict[str, Any]:
    """Ask the server as its administrator; it is ended when it does not answer."""
    user: NatsUser = "administrator"
    try:
        client = await nats.connect(server.url(user), inbox_prefix=inbox_prefix(user), allow_reconnect=False)
        try:
            answer = await client.request(subject, timeout=CONNECT_SECONDS)
        finally:
            await client.close()
        said: dict[str, Any] = orjson.loads(answer.data)
    except BaseException:
        await server.stop()
        raise
    return said


async def _recovered(server: NatsServer) -> dict[str, bool]:
    """Return the streams that the server has read, and whether they are whole: none that forbids deletion lacks any."""
    streams: list[dict[str, Any]] = (await _ask(server, "$JS.API.STREAM.LIST"))["streams"] or []
    return {
        each["config"]["name"]: not each["config"].get("deny_delete")
        or (each["state"]["first_seq"] <= 1 and not each["state"].get("num_deleted"))
        for each in streams
    }


async def _used_bytes(server: NatsServer) -> int:
    """Ask how much the log holds, as the server counts it."""
    return int((await _ask(server, "$JS.API.INFO"))["storage"])


def _counted_bytes(folder: DataFolder) -> int:
    """Give what the log held when it was last counted."""
    path = folder.path / _COUNTED
    return int(path.read_bytes()) if path.exists() else 0


def room_bytes(path: Path) -> int:
    """Give how much the log may grow on its disk: what is free, less a reserve."""
    disk = shutil.disk_usage(path)
    reserve = min(DISK_RESERVE_BYTES, int(disk.total * DISK_RESERVE_SHARE))
    return max(disk.free - reserve, 1)
