"""Time the reads of a store and count its errors, as its caller sees them. Used by the compositions of the services.

What is observed goes to functions: a store does not know of metrics.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, Final, TypeVar

from refold.core.errors import HistoryElsewhere, StoreError, TimedOut
from refold.store.ports import Reader

READS: Final = (
    *("checkpoints", "epoch", "head", "load", "other_versions", "list_documents", "list_names"),
    *("namespaces", "ping", "snapshot_at", "entry", "entries_between", "find_id", "rejections"),
    *("open_conflicts", "list_at", "clock"),
)
STREAMS: Final = ("segments", "conflicts")
"""Reads that yield."""
WRITES: Final = ("bind", "acquire_lease", "commit", "flush_states")
"""Calls whose errors are counted; the time of commits is measured by the projector."""

AnyStore = TypeVar("AnyStore", bound=Reader)
OnRead = Callable[[str, float, tuple[Any, ...]], None]
"""Takes a method's name, its seconds and its arguments."""
OnError = Callable[[str, str], None]
"""Takes a method's name and the error's code."""


def measured(store: AnyStore, on_read: OnRead, on_error: OnError) -> AnyStore:
    """Replace the methods of a store by ones that are measured; return the store."""
    for wrap, names in ((_timed, READS), (_timed_stream, STREAMS), (_counted, WRITES)):
        for name in names:
            if (method := getattr(store, name, None)) is not None:
                setattr(store, name, wrap(name, method, on_read, on_error))
    return store


def _timed(name: str, read: Callable[..., Awaitable[Any]], on_read: OnRead, on_error: OnError) -> Any:
    @wraps(read)
    async def timed(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return await read(*args, **options)
        except (StoreError, TimedOut) as error:
            _report(name, error, on_error)
            raise
        finally:
            on_read(name, time.perf_counter() - started, args)

    return timed


def _timed_stream(
    name: str, read: Callable[..., AsyncGenerator[Any]], on_read: OnRead, on_error: OnError
) -> Any:
    """Time what the store takes: not what its caller does between two parts."""

    @wraps(read)
    async def timed(*args: Any, **options: Any) -> AsyncGenerator[Any]:
        away, started = 0.0, time.perf_counter()
        try:
            async with aclosing(read(*args, **options)) as parts:
                async for part in parts:
                    left = time.perf_counter()
                    try:
                        yield part
                    finally:
                        away += time.perf_counter() - left
        except (StoreError, TimedOut) as error:
            _report(name, error, on_error)
            raise
        finally:
            on_read(name, time.perf_counter() - started - away, args)

    return timed


def _counted(name: str, write: Callable[..., Awaitable[Any]], _: OnRead, on_error: OnError) -> Any:
    @wraps(write)
    async def counted(*args: Any, **options: Any) -> Any:
        try:
            return await write(*args, **options)
        except (StoreError, TimedOut) as error:
            _report(name, error, on_error)
            raise

    return counted


def _report(name: str, error: StoreError | TimedOut, on_error: OnError) -> None:
    # A store of recent depth says so of what the log has to answer.
    if not isinstance(error, HistoryElsewhere):
        on_error(name, error.code)
