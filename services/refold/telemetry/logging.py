"""Structured log lines: JSON on standard error, without secrets. For every service and command."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from io import FileIO
from typing import Any, Final, TextIO, cast

import orjson
import structlog

from refold.telemetry import instance, redacted
from refold.telemetry.repetitions import EVENT_CHARS_MAX, Kind, Repeated, Repetitions

FIRST_FIELDS: Final = ("time", "level", "service", "instance", "event")
"""Fields of every line, in their order; others follow."""


def get_logger() -> structlog.typing.FilteringBoundLogger:
    """Return a logger: `get_logger().info("commit_written", events=12, seconds=0.004)`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def configure(level: str, *, service: str, stream: TextIO | None = None) -> None:
    """Write the log lines of this level and above to the stream (standard error), also those of libraries."""
    number = logging.getLevelNamesMapping()[level.upper()]
    out = stream or _standard_error(service)
    serialize = partial(_line, service=service, instance=instance())
    repetitions = Repetitions(partial(_write_repeated, out, serialize))
    # What is counted when the process ends is written then.
    atexit.register(repetitions.close)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    rendering: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        hide_secrets,
        structlog.processors.JSONRenderer(serializer=serialize),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            partial(_count_repeated, repetitions),
            *shared,
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # It writes a line by one call, as the handler does: those of several threads do not mix.
        logger_factory=structlog.WriteLoggerFactory(out),
    )
    handler = logging.StreamHandler(out)
    handler.addFilter(partial(_is_library_line_written, repetitions))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                *shared,
                structlog.stdlib.ExtraAdder(),
                _name_library,
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def _standard_error(service: str) -> TextIO:
    # With PYTHONUNBUFFERED the buffer is the raw file itself.
    buffer = getattr(sys.stderr, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, FileIO):
        # Standard error has been replaced by a stream in memory.
        return sys.stderr
    return cast(TextIO, LossyFile(lambda: raw, service=service))


def hide_secrets(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor: remove secrets from a log line."""
    return {key: redacted(value, key) for key, value in line.items()}


def _name_library(logger: Any, _: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = line.get("_record")
    line["library"] = record.name if isinstance(record, logging.LogRecord) else str(logger)
    return line


def _count_repeated(
    repetitions: Repetitions, _: Any, __: str, line: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Processor: drop a line that is counted instead."""
    code = line.get("code")
    if code is None and "exc_info" in line:
        code = _exception_name(line["exc_info"])
    if not repetitions.admits(Kind(line["level"], line["event"][:EVENT_CHARS_MAX], str(code or ""))):
        raise structlog.DropEvent
    return line


def _is_library_line_written(repetitions: Repetitions, record: logging.LogRecord) -> bool:
    event = record.getMessage()[:EVENT_CHARS_MAX]
    return repetitions.admits(Kind(record.levelname.lower(), event, _exception_name(record.exc_info)))


def _exception_name(given: Any) -> str:
    """Return the type of the exception that a line is given; empty if there is none."""
    kind = type(given) if isinstance(given, BaseException) else None
    if given is True:
        kind = sys.exc_info()[0]
    elif isinstance(given, tuple):
        kind = given[0]
    return "" if kind is None else kind.__name__


def _write_repeated(out: TextIO, serialize: Callable[..., str], repeated: Repeated) -> None:
    level, name, code = repeated.kind
    line = {
        "time": _now(),
        "level": level,
        "event": "repeated",
        "name": name,
        "code": code or None,
        "count": repeated.lines,
        "seconds": round(repeated.seconds, 3),
    }
    out.write(serialize(hide_secrets(None, "", line)) + "\n")
    out.flush()


def _line(line: MutableMapping[str, Any], *, service: str, instance: str, **_: Any) -> str:
    line.update(service=service, instance=instance)
    first = {name: line.pop(name) for name in FIRST_FIELDS if name in line}
    return orjson.dumps(first | dict(line), default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class LossyFile:
    """Write log lines to a file; drop and count those that cannot be written.

    A full disk or a closed pipe must neither stop nor block the process that logs. When writing works again, a line
    `log_lines_dropped` says how many lines are missing.
    """

    def __init__(self, open_file: Callable[[], FileIO], *, service: str) -> None:
        """Open the file at the first write, and again after `close`. It must be unbuffered."""
        self._open = open_file
        self._service = service
        self._file: FileIO | None = None
        self._dropped = 0
        self._is_skipping = False
        self._ends_line = True
        self._lock = threading.Lock()

    def write(self, lines: bytes | str) -> None:
        """Write lines, or pieces of lines. Never raises `OSError` or `ValueError`."""
        if isinstance(lines, str):
            lines = lines.encode(errors="backslashreplace")
        with self._lock:
            self._write(lines)

    def _write(self, lines: bytes) -> None:
        if self._is_skipping:
            # The beginning of this line was dropped, so its end is dropped as well.
            end = lines.find(b"\n") + 1 or len(lines)
            self._drop(lines[:end])
            lines = lines[end:]
        if lines and self._dropped:
            if self._unwritten(self._notice()):
                self._drop(lines)
                return
            self._dropped = 0
        unwritten = self._unwritten(lines)
        if unwritten:
            self._drop(unwritten)

    def size(self) -> int:
        """Return the file's size in bytes; 0 while it is not open."""
        return 0 if self._file is None else self._file.tell()

    def flush(self) -> None:
        """Do nothing: the file is unbuffered."""

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _unwritten(self, data: bytes) -> bytes:
        """Write what can be written and return the rest."""
        # ValueError: the file was closed by another part of the process.
        with suppress(OSError, ValueError):
            if self._file is None:
                self._file = self._open()
            while data:
                # None: the file is non-blocking and would block now.
                count = self._file.write(data)
                if not count:
                    break
                self._ends_line = data[count - 1 : count] == b"\n"
                data = data[count:]
        return data

    def _drop(self, data: bytes) -> None:
        self._dropped += data.count(b"\n")
        self._is_skipping = not data.endswith(b"\n")

    def _notice(self) -> bytes:
        line = {
            "time": _now(),
            "level": "warning",
            "service": self._service,
            "instance": instance(),
            "event": "log_lines_dropped",
            "lines": self._dropped,
        }
        return (b"" if self._ends_line else b"\n") + orjson.dumps(line) + b"\n"
