"""The NATS server as our child: its configuration, its users, its port. Whoever starts the system may use it.

Every user but the author has an inbox prefix of his own (`inbox_prefix`), which his client must be given.
"""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final, Literal

import nats
import orjson

from refold.core.errors import ChildFailed
from refold.core.limits import (
    DISK_RESERVE_BYTES,
    DISK_RESERVE_SHARE,
    LOG_UNCOUNTED_SHARE,
    PAYLOAD_BYTES_MAX,
)
from refold.embedded import binaries
from refold.embedded.child import Child, Command, wait_ready
from refold.embedded.folder import DataFolder, write_private
from refold.embedded.ports import LOOPBACK, lost_port, port_taken, refuse_taken

Durability = Literal["fsync", "os"]
"""`fsync`: an acknowledged event survives power loss. `os`: for throw-away data."""

NatsUser = Literal["administrator", "projector", "reply", "gateway", "author"]
NATS_USERS: Final[tuple[NatsUser, ...]] = ("administrator", "projector", "reply", "gateway", "author")

_CONFIGURATION: Final = "nats.conf"
_COUNTED: Final = "nats/counted_bytes"
_SYNC_INTERVAL: Final = {"fsync": "always", "os": "2m"}
_ANY_PORT: Final = -1

_MEMORY_BYTES: Final = 384 * 1024 * 1024
"""Over this, the server gives freed memory back at once. A target, not a bound: without it, 40 subscribers that did
not read left 882 MiB behind. A million documents take about 350 MiB."""


class _ConfigurationTemplate(Template):
    """`%{name}`, since `$` begins the broker's own subjects."""

    delimiter = "%"


@dataclass(frozen=True, kw_only=True, slots=True)
class NatsServer:
    """A running NATS server."""

    child: Child
    host: str
    port: int
    passwords: dict[str, str] = field(repr=False)

    @property
    def address(self) -> str:
        """Give the address for anyone: who names no user is the author."""
        return f"nats://{self.host}:{self.port}"

    def url(self, user: NatsUser) -> str:
        """Give the address with a user's name and password: a secret."""
        return f"nats://{user}:{self.passwords[user]}@{self.host}:{self.port}"

    async def stop(self) -> None:
        """End it cleanly."""
        await self.child.stop()


async def start_nats(
    folder: DataFolder,
    *,
    port: int = 0,
    host: str = LOOPBACK,
    sync: Durability = "fsync",
    file_bytes_max: int | None = None,
) -> NatsServer:
    """Start the server and wait until it answers; port 0 = any free one.

    `file_bytes_max` bounds the log in bytes before compression; left out = as much as the disk has room for.
    """
    refuse_taken(host, port)
    start = partial(_start, folder, port=port, host=host, sync=sync)
    if file_bytes_max:
        return await start(file_bytes_max=file_bytes_max)
    # The bound counts bytes before compression, which no file tells: only the running server knows.
    counted, room = _counted_bytes(folder), _room_bytes(folder.path)
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
    folder: DataFolder, *, port: int, host: str, sync: Durability, file_bytes_max: int
) -> NatsServer:
    home = folder.path / "nats"
    home.mkdir(mode=0o700, exist_ok=True)
    for stale in home.glob("*.ports"):
        stale.unlink()
    settings = {"host": host, "port": port or _ANY_PORT, "sync_interval": _SYNC_INTERVAL[sync]}
    sizes = {"payload_bytes_max": PAYLOAD_BYTES_MAX, "file_bytes_max": file_bytes_max}
    write_private(home / _CONFIGURATION, _configuration({**folder.passwords, **settings, **sizes}))
    child = folder.start(_command(home))
    try:
        listening = await wait_ready(child, lambda: _listening(home, host))
    except ChildFailed as error:
        if port and lost_port(error):
            raise port_taken(host, port) from error
        raise
    return NatsServer(child=child, host=host, port=listening, passwords=folder.passwords)


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


async def _listening(home: Path, host: str) -> int | None:
    """Give the port once the server greets on it."""
    port = _told_port(home)
    if port is None:
        return None
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            return port if (await reader.readline()).startswith(b"INFO ") else None
        finally:
            writer.close()
    except OSError:
        return None


def _told_port(home: Path) -> int | None:
    for told in home.glob("*.ports"):
        # It may be seen before it is written.
        with suppress(orjson.JSONDecodeError):
            return int(orjson.loads(told.read_bytes())["nats"][0].rpartition(":")[2])
    return None


async def _used_bytes(server: NatsServer) -> int:
    """Ask how much the log holds, as the server counts it; the server is ended when it does not say."""
    user: NatsUser = "administrator"
    try:
        client = await nats.connect(server.url(user), inbox_prefix=inbox_prefix(user), allow_reconnect=False)
        try:
            answer = await client.request("$JS.API.INFO")
        finally:
            await client.close()
        return int(orjson.loads(answer.data)["storage"])
    except BaseException:
        await server.stop()
        raise


def _counted_bytes(folder: DataFolder) -> int:
    """Give what the log held when it was last counted."""
    path = folder.path / _COUNTED
    return int(path.read_bytes()) if path.exists() else 0


def _room_bytes(path: Path) -> int:
    disk = shutil.disk_usage(path)
    reserve = min(DISK_RESERVE_BYTES, int(disk.total * DISK_RESERVE_SHARE))
    return max(disk.free - reserve, 1)
