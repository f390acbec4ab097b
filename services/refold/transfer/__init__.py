"""Import and export of a namespace as JSON Lines. For the commands and for programs that use the client.

`importer.import_file` continues where it stopped when it is run again; `exporter.export` writes one line a document, or
one a version. This module has the files, plain or packed (`.zst`, `.gz`): memory is bounded whatever their size.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest, sha256
from io import FileIO
from pathlib import Path
from threading import Thread
from typing import Any, Final

import zstandard

from refold.core import json_text
from refold.core.document import ABSENT
from refold.core.errors import Refused
from refold.core.event import VERSION_MAX
from refold.core.json_text import Json, shape_of
from refold.core.stream import check_document
from refold.core.timestamp import format_time, parse_time

PACKED_CHUNK_BYTES: Final = 4 * 1024
"""Read at once from a packed file: four bytes may unpack to 128 KiB."""

PLAIN_CHUNK_BYTES: Final = 1024 * 1024
UNPACK_WINDOW_BYTES_MAX: Final = 2**27
LINE_BYTES_MAX: Final = 32 * 1024 * 1024

PLAIN_SUFFIXES: Final = frozenset({"", ".jsonl", ".ndjson", ".json", ".txt"})
ZSTD_WINDOW_BITS: Final = 24
"""A document's versions follow each other: the one before the largest state still lies within the window."""

ZSTD_LEVEL: Final = 3
GZIP_LEVEL: Final = 6

DIGEST_CHARS: Final = 16
"""Hexadecimal digits of a digest that tells the lines of one document apart, or files in an event's id."""

FIELDS: Final = frozenset({"doc", "state", "ts", "actor", "meta", "version", "present"})
EXPORT_FIELDS: Final = FIELDS | {"type"}
"""A line with a version comes from an export: its `type` is the event's; in other lines it is kept in `meta`."""


class LinesFile:
    """A file to import: its digest, and its lines with their numbers."""

    def __init__(self, path: Path) -> None:
        """Note the file's size; nothing is kept open."""
        self.path = path
        self.size_bytes = path.stat().st_size
        self.read_bytes = 0

    def digest(self) -> str:
        """Return the SHA-256 of the file's bytes as they are, in hexadecimal digits."""
        with self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    def lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield each line's number (from 1) and bytes; None for a line over `LINE_BYTES_MAX`.

        Raises `Refused` where the packing is broken.
        """
        number = 0
        rest = bytearray()
        is_oversized = False
        for chunk in self._chunks():
            start = 0
            while (end := chunk.find(b"\n", start)) >= 0:
                number += 1
                yield number, None if is_oversized else bytes(rest + chunk[start:end])
                rest.clear()
                is_oversized = False
                start = end + 1
            rest += chunk[start:]
            if len(rest) > LINE_BYTES_MAX:
                rest.clear()
                is_oversized = True
        if rest or is_oversized:
            yield number + 1, None if is_oversized else bytes(rest)

    def _chunks(self) -> Iterator[bytes]:
        with self.path.open("rb", buffering=0) as file:
            if self.path.suffix not in _UNPACKERS:
                yield from self._read(file, PLAIN_CHUNK_BYTES)
                return
            try:
                yield from self._unpack(self._read(file, PACKED_CHUNK_BYTES))
            except (zstandard.ZstdError, zlib.error, EOFError, gzip.BadGzipFile) as error:
                rule = f"cannot be unpacked: {error}"
                raise Refused("bad_file", rule, field=str(self.path)) from error

    def _read(self, file: FileIO, count: int) -> Iterator[bytes]:
        for chunk in iter(partial(file.read, count), b""):
            self.read_bytes += len(chunk)
            yield chunk

    def _unpack(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        unpacker = None
        for packed in chunks:
            chunk = packed
            while chunk:
                unpacker = unpacker or _UNPACKERS[self.path.suffix]()
                yield unpacker.decompress(chunk)
                # Another frame may follow in the same file.
                chunk = unpacker.unused_data
                unpacker = None if unpacker.eof else unpacker
        if unpacker is not None:
            raise EOFError("it ends in the middle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A document's whole state after one change; `ABSENT` where the change removed it. `text`: the line's bytes.

    `version`: the line comes from an export; it is an event even if it changes nothing, and must make this version.
    """

    number: int
    text: bytes
    document: str
    state: Json
    occurred_at: str
    actor: str | None
    meta: dict[str, Json]
    version: int | None
    type: str | None

    @property
    def digest(self) -> str:
        """What the line is recognised by in another file."""
        return digest_of(self.text.strip())


def digest_of(text: bytes) -> str:
    """Return the beginning of the SHA-256 of a text."""
    return sha256(text).hexdigest()[:DIGEST_CHARS]


def parse_line(number: int, text: bytes) -> Line:
    """Parse and check a line. Raises `Refused` with field, rule and shape."""
    fields = json_text.loads(text)
    if not isinstance(fields, dict):
        raise Refused("bad_line", "a line is a JSON object", shape=shape_of(fields))
    for name in ("doc", "state", "ts"):
        if name not in fields:
            raise Refused("bad_line", "is missing", field=name)
    version = _version(fields)
    state = fields["state"]
    return Line(
        number=number,
        text=text,
        document=check_document(_text(fields, "doc"), "doc"),
        state=ABSENT if state is None and fields.get("present") is not True else state,
        occurred_at=_time(fields["ts"]),
        actor=_optional_text(fields, "actor"),
        meta=_meta(fields, FIELDS if version is None else EXPORT_FIELDS),
        version=version,
        type=None if version is None else _optional_text(fields, "type"),
    )


def _time(value: Json) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = repr(value)
        value = format(value, ".9f") if "e" in text else text
    if not isinstance(value, str):
        raise Refused("bad_time", "must be unix seconds or RFC 3339", field="ts", shape=shape_of(value))
    return format_time(parse_time(value, "ts"))


def _version(fields: dict[str, Json]) -> int | None:
    if "version" not in fields:
        return None
    version = fields["version"]
    if type(version) is not int or not 1 <= version <= VERSION_MAX:
        raise Refused("bad_line", "must be an integer from 1", field="version", shape=shape_of(version))
    return version


def _meta(fields: dict[str, Json], known: frozenset[str]) -> dict[str, Json]:
    meta = {} if fields.get("meta") is None else fields["meta"]
    if not isinstance(meta, dict):
        raise Refused("bad_line", "must be an object", field="meta", shape=shape_of(meta))
    others = {name: value for name, value in fields.items() if name not in known}
    for name in meta.keys() & others:
        if not json_text.equal(meta[name], others[name]):
            shape = shape_of(others[name])
            raise Refused("contradictory", "the line and its meta differ", field=name, shape=shape)
    return meta | others


def _optional_text(fields: dict[str, Json], name: str) -> str | None:
    return None if fields.get(name) is None else _text(fields, name)


def _text(fields: dict[str, Json], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise Refused("bad_line", "must be a string", field=name, shape=shape_of(value))
    return value


class Target:
    """Write in threads, so that a slow reader stops neither the connections nor Ctrl-C."""

    def __init__(self, stream: FileIO, name: str, suffix: str = "") -> None:
        """Write to the stream, packed by suffix; errors name it `name`."""
        self._stream = stream
        self._name = name
        self._packer = _PACKERS[suffix]() if suffix in _PACKERS else None

    async def write(self, chunk: bytes) -> None:
        """Write a whole chunk. Raises `Refused` on failure, `BrokenPipeError` when the reader is gone."""
        await _in_thread(lambda: self._put(chunk if self._packer is None else self._packer.compress(chunk)))

    async def finish(self) -> None:
        """Write what the packer still holds."""
        await _in_thread(lambda: self._put(b"" if self._packer is None else self._packer.flush()))

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        with _translating_errors(self._name):
            while left:
                left = left[self._stream.write(left) or 0 :]


async def _in_thread(work: Callable[[], None]) -> None:
    """Run work in a thread that does not keep the process alive: it may block in a pipe that is not read."""
    done: Future[None] = Future()
    # A waiter that gives up cancels nothing here.
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the waiter
            done.set_exception(error)
        else:
            done.set_result(None)

    Thread(target=run, name="export-write", daemon=True).start()
    await asyncio.wrap_future(done)


@asynccontextmanager
async def target_file(path: Path, *, is_replaced: bool = False) -> AsyncIterator[Target]:
    """Open a file that appears under its name once it is complete.

    Raises `Refused` where it exists (unless `is_replaced`), its suffix is unknown, or it cannot be written.
    """
    _check_name(path, is_replaced=is_replaced)
    with _open_beside(path) as file:
        target = Target(file, str(path), path.suffix)
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
def _open_beside(path: Path) -> Iterator[FileIO]:
    """Write to a temporary file beside it, then rename; a pipe or a device is written directly."""
    if path.exists() and not path.is_file():
        with _open(path, str(path)) as file:
            yield file
        return
    beside = path.with_name(f"{path.name}.part")
    try:
        with _open(beside, str(path)) as file:
            yield file
            os.fsync(file.fileno())
        with _translating_errors(str(path)):
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _open(path: Path, name: str) -> FileIO:
    with _translating_errors(name):
        return path.open("wb", buffering=0)


@contextmanager
def _translating_errors(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused("cannot_write", f"cannot be written: {error.strerror}", field=name) from error


def _zstd_packer() -> zstandard.ZstdCompressionObj:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVEL, window_log=ZSTD_WINDOW_BITS, enable_ldm=True
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compressobj()


_UNPACKERS: Final[dict[str, Callable[[], Any]]] = {
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=UNPACK_WINDOW_BYTES_MAX).decompressobj(),
    ".gz": lambda: zlib.decompressobj(wbits=31),
}
_PACKERS: Final[dict[str, Callable[[], Any]]] = {
    ".zst": _zstd_packer,
    ".gz": lambda: zlib.compressobj(GZIP_LEVEL, wbits=31),
}
