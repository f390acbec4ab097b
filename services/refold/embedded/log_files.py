"""Copies of the log's files, taken before nats-server starts, because its start deletes what it cannot read.

Used by `refold.embedded.nats`. Seen with 2.15.1: with one flipped bit in a sealed block, the start removes the stream's
folder. A sealed block is never changed in place, so a hard link keeps it at no cost. An open block is cut where its
checksums do not match, so it is copied (at most 8 MB).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
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
"""The first bytes of a sealed block: it is compressed when it is sealed."""
_OPEN_BLOCKS_MAX: Final = 2
"""Only the newest blocks can be open: one that is being written, one that is being sealed."""


class _Copied(NamedTuple):
    original: Path
    copy: Path
    size: int
    is_sealed: bool


class BlockCopies:
    """Links to and copies of every stream's files, taken while no server runs."""

    def __init__(self, home: Path, copied: list[_Copied]) -> None:
        """Use `take`."""
        self._home = home
        self._copied = copied

    @classmethod
    def take(cls, home: Path) -> BlockCopies:
        """Link or copy the files of all streams under the server's folder. Raises `OSError` if there is no room.

        Copies of an earlier start that did not reach `keep_losses` stay: they are older, so they hold more.
        """
        return cls(home, [_copy(home, path, is_open=is_open) for path, is_open in _stream_files(home)])

    def keep_losses(self, recovered: Mapping[str, bool]) -> list[str]:
        """Keep the copies of what the server has lost, remove the others; return one line a loss for the operator.

        `recovered` names the streams that the server has read, and whether each is complete. Of an incomplete one,
        every block that the start has changed is kept; of a complete one, those that are gone or shorter. Of a stream
        that was not read, all files are kept, and restored if the server deleted them.
        """
        unread = [each for each in self._copied if _stream_of(each.original) not in recovered]
        read = [each for each in self._copied if each not in unread and each.original.suffix == ".blk"]
        changed = [each for each in read if _is_changed(each, is_whole=recovered[_stream_of(each.original)])]
        lines = []
        if unread or changed:
            kept = _kept_folder(self._home / DAMAGED, [*unread, *changed])
            lines = [*_unread_lines(unread, kept), *(_changed_line(each, kept) for each in changed)]
            for each in (*unread, *changed):
                target = kept / each.original.relative_to(self._home)
                target.parent.mkdir(parents=True, exist_ok=True)
                each.copy.replace(target)
                if each in unread and not each.original.exists():
                    each.original.parent.mkdir(parents=True, exist_ok=True)
                    _duplicate(target, each.original, is_open=not each.is_sealed)
        shutil.rmtree(self._home / _COPIES, ignore_errors=True)
        return lines


def stored_blocks(home: Path) -> list[str]:
    """Describe the folders that hold blocks of a stream; empty if no event is stored."""
    found: dict[Path, list[Path]] = {}
    for path, _ in _stream_files(home):
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
        target = home / DAMAGED / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-put-aside" / stream.name
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.append(stream.rename(target))
    return aside


def kept_folders(home: Path) -> list[Path]:
    """Return the folders that earlier starts have kept, oldest first."""
    return sorted((home / DAMAGED).glob("*"))


def _stream_files(home: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the files of every stream but its consumers', and whether each is open (may be changed in place)."""
    for stream in sorted((home / STORAGE).glob("*/streams/*")):
        found = [
            path for path in (*stream.glob("*"), *stream.glob("msgs/*")) if path.suffix in _KEPT_SUFFIXES
        ]
        blocks = sorted((path for path in found if path.suffix == ".blk"), key=_number)
        for path in found:
            is_block = path.suffix == ".blk"
            if path.is_file():
                yield path, not is_block or (path in blocks[-_OPEN_BLOCKS_MAX:] and not _is_sealed(path))


def _number(block: Path) -> int:
    return int(block.stem) if block.stem.isdecimal() else 0


def _stream_of(path: Path) -> str:
    return (path.parents[1] if path.parent.name == "msgs" else path.parent).name


def _copy(home: Path, path: Path, *, is_open: bool) -> _Copied:
    target = home / _COPIES / path.relative_to(home)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _duplicate(path, target, is_open=is_open)
    return _Copied(path, target, target.stat().st_size, not is_open)


def _duplicate(source: Path, target: Path, *, is_open: bool) -> None:
    """Link a file, or copy one that may be changed in place; whole or not at all."""
    if not is_open:
        os.link(source, target)
        return
    making = target.with_name(f"{target.name}.new")
    shutil.copy2(source, making)
    making.rename(target)


def _is_sealed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SEALED)) == _SEALED


def _is_changed(copied: _Copied, *, is_whole: bool) -> bool:
    """Return whether a block may have lost events; in a complete stream, one that was sealed since is only shorter."""
    path = copied.original
    if not path.exists():
        return bool(copied.size)
    now, before = path.stat(), copied.copy.stat()
    if not is_whole:
        return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
    return now.st_size < copied.size and (copied.is_sealed or not _is_sealed(path))


def _kept_folder(damaged: Path, lost: list[_Copied]) -> Path:
    """Name a folder after the time and the loss; the same loss at the next start is kept only once."""
    facts = [(str(each.original), each.size, each.copy.stat().st_mtime_ns) for each in lost]
    digest = sha256(repr(sorted(facts)).encode()).hexdigest()[:12]
    known = sorted(damaged.glob(f"*-{digest}"))
    return known[0] if known else damaged / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest}"


def _unread_lines(unread: list[_Copied], kept: Path) -> list[str]:
    folders = sorted({each.original.parent for each in unread if each.original.suffix == ".blk"})
    what = "nats-server could not read the stream; its files are left as they were, and kept in"
    return [f"{folder}: {what} {kept}" for folder in folders]


def _changed_line(copied: _Copied, kept: Path) -> str:
    path = copied.original
    how = "deleted it"
    if path.exists():
        size = path.stat().st_size
        how = f"cut it from {copied.size:,} to {size:,} bytes" if size < copied.size else "changed it"
    return f"{path}: nats-server {how}; as it was, it is kept in {kept}"
