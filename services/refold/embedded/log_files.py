"""Copies of the log's files, taken before nats-server starts, because its start deletes what it cannot read.

Used by `refold.embedded.nats`. Seen with 2.15.1: with one flipped bit in a sealed block, the start removes the stream's
folder. A sealed block is compressed and never changed in place, so a hard link keeps it at no cost. An open block is
cut where its checksums do not match, so it is copied (at most 8 MB).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

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
