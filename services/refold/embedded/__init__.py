"""NATS and PostgreSQL as child processes on a data folder.

This module has the folder's small files: passwords, and while a system runs on it, its addresses and settings. Nothing
heavy is imported here, because every command over a running system needs it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from refold.core.errors import EmbeddedError, Refused, ServiceUnavailable

DEFAULT_DATA: Final = Path(".refold")
ENDPOINTS: Final = "endpoints.json"
RUNNING_SETTINGS: Final = "settings.json"
SECRETS: Final = "secrets.json"
LOCK: Final = "lock"
"""Held by the one process that uses the folder."""
SERVERS_LOCK: Final = "servers.lock"
"""Held by the servers as long as any of them runs."""


def read_endpoints(data: Path) -> dict[str, Any]:
    """Return the addresses of the system that runs on a data folder; empty if none runs.

    A run that was killed leaves its file behind; that file is ignored.
    """
    return _read_of_running(data, ENDPOINTS)


def running_settings(data: Path) -> list[dict[str, Any]]:
    """Return the settings of the system that runs on a data folder: `setting`, `value`, `from`, `description`.

    Raises `ServiceUnavailable` if none runs there.
    """
    found = _read_of_running(data, RUNNING_SETTINGS).get("settings")
    if found is None:
        raise no_system(data)
    return list(found)


def running_setting(data: Path, name: str) -> str | None:
    """Return the value of one of these settings; None where it is not set. Raises as `running_settings`."""
    return next((each["value"] for each in running_settings(data) if each["setting"] == name), None)


def no_system(data: Path | None) -> ServiceUnavailable:
    """Return the error that no system runs on a data folder; None is the default one, which nothing named."""
    folder = data or DEFAULT_DATA
    hint = f"`refold up --data {data}`" if data else "`refold up`, or name the folder of another (--data)"
    return ServiceUnavailable(
        f"no system runs on {folder}; start it with {hint}", missing=str(folder / ENDPOINTS)
    )


def write_endpoints(
    data: Path, endpoints: Mapping[str, object], settings: Sequence[Mapping[str, str]] = ()
) -> None:
    """Write where everything is, and the settings in force, as `write_json` does: addresses hold passwords."""
    write_json(data / RUNNING_SETTINGS, {"settings": settings})
    write_json(data / ENDPOINTS, endpoints)


def remove_endpoints(data: Path) -> None:
    """Remove what says where the system is."""
    for name in (ENDPOINTS, RUNNING_SETTINGS):
        (data / name).unlink(missing_ok=True)


def read_passwords(data: Path) -> dict[str, str]:
    """Return a data folder's passwords by user; empty if it has none. Raises `EmbeddedError` if they are unreadable."""
    path = data / SECRETS
    if not path.exists():
        return {}
    try:
        return {str(user): str(password) for user, password in orjson.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError) as error:
        message = (
            "the file with the passwords cannot be read: restore it, or move it and the folder `postgres` away; "
            "the projection is then rebuilt from the log"
        )
        raise EmbeddedError(message, path=str(path), reason=str(error)) from error


def write_json(path: Path, content: object) -> None:
    """Write JSON as `write_private` does."""
    write_private(path, orjson.dumps(content, option=orjson.OPT_INDENT_2))


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    making = path.with_name(path.name + ".new")
    making.unlink(missing_ok=True)
    file = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(file)
    making.replace(path)


def _read_of_running(data: Path, name: str) -> dict[str, Any]:
    try:
        content = orjson.loads((data / name).read_bytes())
        is_stale = not _is_in_use(data)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise Refused("bad_setting", f"cannot be read: {error}", field=str(data / name)) from error
    return content if isinstance(content, dict) and not is_stale else {}


def _is_in_use(data: Path) -> bool:
    """Return whether a process holds the data folder's lock; a folder without a lock file is taken to be in use."""
    try:
        with (data / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return True
    return False
