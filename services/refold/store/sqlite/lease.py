"""A shard's lease: a lock on a file of its own, in which the holder writes when it last renewed or committed.

A process that ends loses its lock. One that is stopped keeps it, so another may replace the lock's file after a while.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from refold.core.errors import FenceLost
from refold.store.sqlite.pool import translated

_RENEWED_AT: Final = struct.Struct(">d")
"""Seconds of the monotonic clock, which all processes of a machine share; after a restart of it no lock is held."""

_log = structlog.get_logger()


class ShardLease:
    """Acquire the lease, and tell whether it is still held."""

    def __init__(self, path: Path, *, lease_seconds: float, timer: Callable[[], float]) -> None:
        """Hold nothing yet. A holder that is silent for `lease_seconds` loses the lease to the next that asks."""
        self._path = path
        self._lease_seconds = lease_seconds
        self._timer = timer
        self._locked: int | None = None
        # A commit that was cancelled may still run in its thread.
        self._mutex = threading.RLock()

    def acquire(self) -> bool:
        """Try for the lock; if it is held already, renew it."""
        with self._mutex, translated():
            if self._locked is not None:
                if self._is_current(self._locked):
                    self.renew()
                    return True
                self.close()
            self._locked = self._lock()
            if self._locked is None:
                return False
            self.renew()
            return True

    def check(self) -> None:
        """Raise `FenceLost` where the lease is not held."""
        with self._mutex, translated():
            if self._locked is None or not self._is_current(self._locked):
                self.close()
                raise FenceLost("this store does not hold the shard's lease")

    def renew(self) -> None:
        """Show that the holder is alive."""
        with self._mutex, translated():
            if self._locked is not None:
                os.pwrite(self._locked, _RENEWED_AT.pack(self._timer()), 0)

    def close(self) -> None:
        """Release the lock."""
        with self._mutex:
            locked, self._locked = self._locked, None
            if locked is not None:
                os.close(locked)

    def _lock(self) -> int | None:
        opened = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            renewed_at = os.pread(opened, _RENEWED_AT.size, 0)
            os.close(opened)
            return self._replace(renewed_at)
        if self._is_current(opened):
            return opened
        os.close(opened)
        return None

    def _replace(self, renewed_at: bytes) -> int | None:
        """Put another file in the place of one whose holder has been silent too long; None where it has not."""
        if len(renewed_at) < _RENEWED_AT.size:
            return None
        silent_seconds = self._timer() - _RENEWED_AT.unpack(renewed_at)[0]
        if silent_seconds < self._lease_seconds:
            return None
        fresh = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        opened = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fresh.replace(self._path)
        _log.warning("silent_holder_ended", path=str(self._path), silent_seconds=silent_seconds)
        return opened

    def _is_current(self, opened: int) -> bool:
        """Tell whether an open file is still the one at the path."""
        held = os.fstat(opened)
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        return (held.st_dev, held.st_ino) == (found.st_dev, found.st_ino)
