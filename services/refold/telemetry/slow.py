"""Log commits, reads and appends that take long, with what they were about. Used where they are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from refold.telemetry.logging import get_logger

SLOW_COMMIT_SECONDS: Final = 1.0
"""A live commit that takes longer is logged; those of a replay are as large as they can be."""

SLOW_READ_SECONDS: Final = 1.0
"""One read of a store; usual ones take milliseconds."""

SLOW_APPEND_SECONDS: Final = 1.0
"""One append of events that are stored together."""


def report_commit(
    seconds: float, first_sequence: int, last_sequence: int, events: int, trace_id: int | None
) -> None:
    """Log a commit that was slow, with the sequences that it covers, and the trace of one of its events."""
    if seconds > SLOW_COMMIT_SECONDS:
        log = get_logger()
        if trace_id is not None:
            log = log.bind(trace_id=f"{trace_id:032x}")
        log.warning(
            "commit_slow",
            seconds=round(seconds, 3),
            first_sequence=first_sequence,
            last_sequence=last_sequence,
            events=events,
        )


def report_read(seconds: float, store: str, method: str, arguments: Sequence[Any]) -> None:
    """Log a read that was slow; the first arguments are namespace and document, where they are texts."""
    if seconds > SLOW_READ_SECONDS:
        names = [each if isinstance(each, str) else None for each in (*arguments[:2], None, None)]
        get_logger().warning(
            "read_slow",
            seconds=round(seconds, 3),
            store=store,
            method=method,
            namespace=names[0],
            document=names[1],
        )


def report_append(
    seconds: float, first_sequence: int | None, events: int, namespace: str, document: str
) -> None:
    """Log an append that was slow: without an acknowledgement, the sequences are null. The document is the first's."""
    if seconds > SLOW_APPEND_SECONDS:
        get_logger().warning(
            "append_slow",
            seconds=round(seconds, 3),
            first_sequence=first_sequence,
            last_sequence=None if first_sequence is None else first_sequence + events - 1,
            namespace=namespace,
            document=document,
        )
