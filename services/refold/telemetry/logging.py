"""Log lines: one fact a line, JSON on stderr, never a secret. For every service and command.

`configure` once at start; then `get_logger()` and `log.info("commit_written", events=12, seconds=0.004)`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import orjson
import structlog

from refold.telemetry.redaction import redacted

LEVELS: Final = ("debug", "info", "warning", "error")


def get_logger(**facts: object) -> structlog.typing.FilteringBoundLogger:
    """Return a logger whose every line carries these facts."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**facts)
    return logger


def configure(level: str, *, service: str, stream: TextIO | None = None) -> None:
    """Send all log lines, other libraries' included, to the stream (stderr) from this level on."""
    number = logging.getLevelNamesMapping()[level.upper()]
    out = stream or sys.stderr

    def name_service(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line["service"] = service
        return line

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        name_service,
    ]
    rendering: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        hide_secrets,
        structlog.processors.JSONRenderer(serializer=_line),
    ]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _route_libraries(number, out, shared, rendering)


def hide_secrets(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor: nothing that is or holds a secret leaves the process."""
    return {key: redacted(value, key) for key, value in line.items()}


def _route_libraries(
    level: int,
    stream: TextIO,
    shared: list[structlog.typing.Processor],
    rendering: list[structlog.typing.Processor],
) -> None:
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _name_library],
            processors=[remove_meta, *rendering],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def _name_library(logger: Any, _: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = line.get("_record")
    line["library"] = record.name if isinstance(record, logging.LogRecord) else str(logger)
    return line


def _line(line: MutableMapping[str, Any], **_: Any) -> str:
    first = {name: line.pop(name) for name in ("time", "level", "service", "event") if name in line}
    return orjson.dumps(first | dict(line), default=str, option=orjson.OPT_NON_STR_KEYS).decode()
