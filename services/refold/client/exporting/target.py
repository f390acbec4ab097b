"""Where an export's lines go: a stream, or a file that is packed by its name (`.zst`, `.gz`) and whole or not there.

Used through `refold.client.exporting`.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, closing, contextmanager
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Final, Protocol, TypeAlias

import zstandard

from refold.core.errors import Refused

WINDOW_BITS: Final = 24
"""A document's versions follow each other: the one before the largest state still lies within the window."""

PLAIN_SUFFIXES: Final = frozenset({"", ".jsonl", ".ndjson", ".json", ".txt"})

ZSTD_LEVEL: Final = 3
GZIP_LEVEL: Final = 6


class Stream(Protocol):
    """What bytes are written to; it may take fewer than it is given."""

    def write(self, data: bytes | memoryview, /) -> int | None:
        """Take bytes; return how many."""


class Target:
    """Writes in a thread of its own: a reader that pauses stops neither the connections nor Ctrl-C."""

    def __init__(self, stream: Stream, name: str, suffix: str = "") -> None:
        """Write to this stream, packed as the suffix says; `name` is what errors call it."""
        self._stream = stream
        self._name = name
        packer = _PACKERS.get(suffix)
        self._packer = None if packer is None else packer()
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        # A daemon: it may hang in a pipe that nobody reads.
        Thread(target=_serve, args=(self._work,), name="export-write", daemon=True).start()

    async def write(self, chunk: bytes) -> None:
        """Write a chunk to its end. Raises `Refused` where that cannot be, `BrokenPipeError` where nobody reads."""
        await self._do(lambda: self._put(chunk if self._packer is None else self._packer.compress(chunk)))

    async def finish(self) -> None:
        """Write what the packing holds back."""
        if self._packer is not None:
            await self._do(lambda: self._put(self._packer.flush() if self._packer else b""))

    def close(self) -> None:
        """Let the thread end behind what it was given."""
        self._work.put(None)

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        with _refusing(self._name):
            while left:
                left = left[self._stream.write(left) or 0 :]

    async def _do(self, work: Callable[[], None]) -> None:
        done: Future[None] = Future()
        self._work.put((work, done))
        await asyncio.wrap_future(done)


@asynccontextmanager
async def target_file(path: Path, *, is_replaced: bool = False) -> AsyncIterator[Target]:
    """Open a file that appears under its name once it is complete.

    Raises `Refused` where it exists (unless `is_replaced`), its suffix is unknown, or it cannot be written.
    """
    _check_name(path, is_replaced=is_replaced)
    with _placed(path) as file, closing(Target(file, str(path), path.suffix)) as target:
        yield target
        await target.finish()


def _check_name(path: Path, *, is_replaced: bool) -> None:
    if path.exists() and not path.is_file():
        return
    if path.exists() and not is_replaced:
        raise Refused("file_exists", "the file exists; --force replaces it", field=str(path))
    if path.suffix not in PLAIN_SUFFIXES and path.suffix not in _PACKERS:
        known = ", ".join([*filter(None, sorted(PLAIN_SUFFIXES)), *_PACKERS])
        raise Refused("bad_usage", f"the suffix must be one of {known}", field=str(path), shape=path.suffix)


@contextmanager
def _placed(path: Path) -> Iterator[FileIO]:
    """Write beside it first; a pipe or a device is written to itself."""
    if path.exists() and not path.is_file():
        with _opened(path, str(path)) as file:
            yield file
        return
    beside = path.with_name(f"{path.name}.part")
    try:
        with _opened(beside, str(path)) as file:
            yield file
            os.fsync(file.fileno())
        with _refusing(str(path)):
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _opened(path: Path, name: str) -> FileIO:
    with _refusing(name):
        return path.open("wb", buffering=0)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused("cannot_write", f"cannot be written: {error.strerror}", field=name) from error


_Work: TypeAlias = tuple[Callable[[], None], Future[None]]


def _serve(work: SimpleQueue[_Work | None]) -> None:
    while (given := work.get()) is not None:
        do, done = given
        if not done.set_running_or_notify_cancel():
            continue
        try:
            do()
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever waits
            done.set_exception(error)
        else:
            done.set_result(None)


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _zstd() -> _Packer:
    made = zstandard.ZstdCompressionParameters.from_level(ZSTD_LEVEL, window_log=WINDOW_BITS, enable_ldm=True)
    return zstandard.ZstdCompressor(compression_params=made).compressobj()


def _gzip() -> _Packer:
    return zlib.compressobj(GZIP_LEVEL, wbits=31)


_PACKERS: Final[dict[str, Callable[[], _Packer]]] = {".zst": _zstd, ".gz": _gzip}
