"""Read the log files of a data folder: those of the services and of both servers, merged by time.

Used by `refold logs`, and for the errors of child processes. Files are only read, so that it works beside a running
system and on a folder without one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Self

import orjson

from refold.core.errors import Refused
from refold.embedded import SERVERS_LOCK
from refold.telemetry import redacted_text

SERVER_LOGS: Final = ("nats/nats.log", "nats/server.log", "postgres/postgres.log")
"""What the servers print or write; that of the database's creation is in its error, if it fails."""

HEAD: Final = frozenset({"time", "level", "service", "instance", "event", "exception"})
"""Fields that `readable` shows otherwise than the rest, or not."""
END_LINES_MAX: Final = 20
"""How much of a child's log its error shows."""
TIME_CHARS: Final = 29
"""A time with nine digits of a second, without the `Z`: such times sort as text."""

_NATS: Final = re.compile(
    r"\[\d+\] (\d{4})/(\d\d)/(\d\d) (\d\d:\d\d:\d\d(?:\.\d{1,9})?) \[([A-Z]{3})\] ?(.*)"
)
_POSTGRES: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d) (\d\d:\d\d:\d\d(?:\.\d{1,9})?) UTC \[\d+\] ([A-Z0-9]+): +(.*)"
)
_BEGINNING: Final = '{"time":"'
"""Of a service's line; within a text it is escaped."""

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)
_LEVELS: Final = {
    "TRC": "debug",
    "DBG": "debug",
    "INF": "info",
    "WRN": "warning",
    "ERR": "error",
    "FTL": "critical",
    **{f"DEBUG{number}": "debug" for number in range(1, 6)},
    "LOG": "info",
    "INFO": "info",
    "NOTICE": "info",
    "WARNING": "warning",
    # Fatal only for a connection.
    "ERROR": "error",
    "FATAL": "error",
    "PANIC": "critical",
}
"""The levels of both servers; PostgreSQL's `DETAIL`, `STATEMENT` and the like have that of the line before."""
_EXPECTED: Final = ("Plaintext passwords detected", 'Healthcheck failed: "failed to be ready for connections')
"""Warnings of a start: the configuration that has the passwords is readable by its owner alone, and the server is asked
for its health until it is ready."""


class LogLine(NamedTuple):
    """A line of the file of one part of the system.

    `at` is its time as text that sorts, empty if it is not known: at least that of the line before it in the file, as
    the clock may be set back. `fields` have `time`, `level`, `service` and `event` whatever wrote the line.
    """

    at: str
    part: str
    fields: dict[str, Any]


class SystemLogs:
    """All log files of a data folder, read from their beginnings and then as they grow. Used in a `with` block."""

    def __init__(self, data: Path) -> None:
        """Find the files. Raises `Refused` where the folder is no data folder, or has none."""
        if not (data / SERVERS_LOCK).exists():
            raise Refused("no_logs", f"{data} is no data folder of `refold up`", field="--data")
        self._data = data
        self._logs: dict[Path, _Log] = {}
        self._find()
        if not self._logs:
            raise Refused("no_logs", f"{data} holds no log files: nothing has run on it", field="--data")

    @property
    def parts(self) -> list[str]:
        """Return the names of the parts that have a log."""
        return sorted({log.part for log in self._logs.values()})

    def read(self, *, is_growing: bool = False) -> Iterator[LogLine]:
        """Return the lines that have not been returned, by time; of a file as they are in it.

        `is_growing`: the end of a file that is no whole line is left for the next call.
        """
        self._find()
        new = [log.read(is_growing=is_growing) for log in self._logs.values()]
        return merge(*new, key=attrgetter("at"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for log in self._logs.values():
            log.close()

    def _find(self) -> None:
        for path in self._paths():
            if path not in self._logs:
                is_service = path.parent == self._data
                part = path.stem if is_service else path.parent.name
                self._logs[path] = _Log(path, part, is_service=is_service)

    def _paths(self) -> Iterable[Path]:
        # After it was renamed, a file is not there until the next line is written.
        services = {
            path.with_name(f"{path.name.partition('.log')[0]}.log") for path in self._data.glob("*.log*")
        }
        servers = (self._data / name for name in SERVER_LOGS)
        return (*sorted(services), *(path for path in servers if path.exists()))


class _Log:
    """A file that is written, and the older ones that had its name."""

    def __init__(self, path: Path, part: str, *, is_service: bool) -> None:
        self.part = part
        self._path = path
        self._is_service = is_service
        self._file: BinaryIO | None = None
        self._is_begun = False
        self._torn = b""
        self._at = ""
        self._level: str | None = None

    def read(self, *, is_growing: bool) -> Iterator[LogLine]:
        for file in self._unread():
            for raw in file:
                line, self._torn = self._torn + raw, b""
                if is_growing and not line.endswith(b"\n"):
                    self._torn = line
                elif text := line.decode(errors="replace").rstrip():
                    yield from map(self._line, _split(text) if self._is_service else [text])

    def _unread(self) -> Iterator[BinaryIO]:
        """Return the files that may have unread lines, the oldest first."""
        if self._file is not None:
            # Looked at before the file is read: once it has been renamed, nothing is added to it.
            is_current = _is_same(self._file, self._path)
            yield self._file
            if is_current:
                return
            self._file.close()
        self._file = _opened(self._path)
        if not self._is_begun:
            self._is_begun = True
            yield from self._older()
        if self._file is not None:
            yield self._file

    def _older(self) -> Iterator[BinaryIO]:
        for path in sorted(self._path.parent.glob(f"{self._path.name}.*"), key=_modified_at):
            if (file := _opened(path)) is None:
                continue
            with file:
                # Ours may have just got another name.
                if self._file is None or not os.path.sameopenfile(file.fileno(), self._file.fileno()):
                    yield file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _line(self, text: str) -> LogLine:
        """Return a line of any program; what has no time or no level has that of the line before it.

        What is no line of a service in its file, such as the report of an interpreter that crashed, is an error.
        """
        fields = _own(text) if self._is_service else _foreign(text, self.part)
        if fields is None:
            level = "error" if self._is_service else self._level
            time = f"{self._at}Z" if self._at else None
            fields = {"time": time, "level": level, "service": self.part, "event": redacted_text(text)}
        elif fields["level"] is None:
            fields["level"] = self._level
        self._level = fields["level"]
        if fields["time"]:
            self._at = max(self._at, _sortable(fields["time"]))
        return LogLine(self._at, self.part, fields)


def readable(fields: Mapping[str, Any]) -> list[str]:
    """Return a line for people: its event and fields, then the further lines of its text and its traceback."""
    first, *others = str(fields["event"]).splitlines() or [""]
    for name, value in fields.items():
        if name not in HEAD:
            shown, *further = value.splitlines() if isinstance(value, str) and value else [value]
            first += f"  {name}={_shown(shown)}"
            others += further
    others += str(fields.get("exception") or "").splitlines()
    return [first, *(f"    {line}" for line in others)]


def readable_end(raw: bytes) -> str:
    """Return the last lines of a log for people, whatever wrote them."""
    lines: list[str] = []
    for text in raw.decode(errors="replace").strip().split("\n"):
        if (fields := _own(text)) is None:
            lines.append(text)
        else:
            first, *others = readable(fields)
            lines += [f"{fields['time']}  {fields['level']}  {first}", *others]
    return "\n".join(lines[-END_LINES_MAX:])


def _shown(value: Any) -> str:
    """Return a field's value: a text that is one word as it is, anything else as JSON."""
    is_word = isinstance(value, str) and value.isprintable() and " " not in value
    return value if is_word else orjson.dumps(value).decode()


def _sortable(time: str) -> str:
    text = time.removesuffix("Z")
    return (text if "." in text else f"{text}.").ljust(TIME_CHARS, "0")


def _split(text: str) -> list[str]:
    """Split a line that was added to one which a killed process had not ended."""
    at = text.rfind(_BEGINNING)
    return [text[:at], text[at:]] if at > 0 else [text]


def _own(text: str) -> dict[str, Any] | None:
    """Read a line of a service; None if it is none."""
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict) or not {"time", "level", "service", "event"} <= fields.keys():
        return None
    return fields if _TIME.fullmatch(str(fields["time"])) else None


def _foreign(text: str, part: str) -> dict[str, Any] | None:
    """Read a line of a server; None if it does not begin with a time."""
    found = (_NATS if part == "nats" else _POSTGRES).fullmatch(text)
    if found is None:
        return None
    year, month, day, clock, level, event = found.groups()
    time = f"{year}-{month}-{day}T{clock}Z"
    known = "info" if event.startswith(_EXPECTED) else _LEVELS.get(level)
    return {"time": time, "level": known, "service": part, "event": redacted_text(event)}


def _opened(path: Path) -> BinaryIO | None:
    """Open a file; None if it has just been renamed or removed. Raises `Refused`."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused("no_logs", f"cannot be read: {error.strerror}", field=str(path)) from error


def _modified_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _is_same(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        # It was renamed; the next line makes the new file.
        return True
