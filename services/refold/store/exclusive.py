"""A SQLite file that one process holds alone: of the alert engine, and of the usage counts.

Used by `refold.alerts.storage` and `refold.usage.storage`. The store adapter `sqlite` shares its files instead.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final, Literal

from refold.core.errors import Refused

WAIT_SECONDS: Final = 1.0
"""How long a start waits for another process on the same file to end."""


def open_alone(path: Path, *, synchronous: Literal["NORMAL", "FULL"]) -> sqlite3.Connection:
    """Open a file, or make it, for this process alone until it is closed. Raises `sqlite3.Error` and `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    file = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        file.execute("PRAGMA locking_mode = EXCLUSIVE")
        file.execute("PRAGMA journal_mode = WAL")
        file.execute(f"PRAGMA synchronous = {synchronous}")
    except BaseException:
        file.close()
        raise
    return file


def unusable(path: Path, error: Exception, command: str) -> Refused:
    """Return the refusal of a file that this command cannot open or read."""
    rule = f"cannot be used: {error}; another `{command}` may run on it"
    return Refused("bad_setting", rule, field=str(path))
