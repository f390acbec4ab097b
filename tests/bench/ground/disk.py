"""One fsync of a small file, the least that a durable append can cost. Used by the measurements that write."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

SYNCS: Final = 100
BLOCK: Final = b"x" * 512


def fsync_milliseconds(folder: Path) -> list[float]:
    """Append a block to a file and sync it, again and again."""
    taken = []
    path = folder / "fsync"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(SYNCS):
            started_at = time.perf_counter()
            os.write(file, BLOCK)
            os.fsync(file)
            taken.append((time.perf_counter() - started_at) * 1_000)
    finally:
        os.close(file)
        path.unlink()
    return taken
