"""What `refold up` wrote into its data folder while it runs: its addresses and its settings. Used by the commands.

Nothing heavy is imported here, because every command over a running system needs it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, Final

from refold.core import json_text
from refold.core.errors import Refused, ServiceUnavailable

ENDPOINTS: Final = "endpoints.json"
RUNNING_SETTINGS: Final = "settings.json"
LOCK: Final = "lock"


def read_endpoints(data: Path) -> dict[str, Any]:
    """Return the addresses of the system that runs on a data folder; empty if none runs.

    A run that was killed leaves its file behind; that file is ignored.
    """
    return _read(data, ENDPOINTS)


def running_settings(data: Path) -> list[dict[str, Any]]:
    """Return the settings of the system that runs on a data folder: `setting`, `value`, `from`, `description`.

    Raises `ServiceUnavailable` if none runs there.
    """
    found = _read(data, RUNNING_SETTINGS).get("settings")
    if found is None:
        raise ServiceUnavailable(f"no system runs on the data folder {data}", missing=str(data))
    return list(found)


def _read(data: Path, name: str) -> dict[str, Any]:
    try:
        content = json_text.loads((data / name).read_bytes())
        is_stale = not _is_in_use(data)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, Refused) as error:
        raise Refused("bad_setting", f"cannot be read: {error}", field=str(data / name)) from error
    return content if isinstance(content, dict) and not is_stale else {}


def _is_in_use(data: Path) -> bool:
    """Return whether a process holds the data folder's lock; a folder without a lock file is taken to be in use."""
    try:
        file = os.open(data / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
