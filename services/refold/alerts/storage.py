"""The engine's own SQLite file: the state of alerts, and what notifiers have not delivered yet.

Used by `refold.alerts.engine`: a restart neither repeats what was delivered nor loses what was not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from refold.alerts import Notification
from refold.core import json_text
from refold.store.exclusive import open_alone, unusable
from refold.store.sql import statements_of
from refold.telemetry.logging import get_logger

SQL: Final = statements_of("refold.alerts")

FORMAT: Final = 1
"""The format of the file, of `Alert` and of `Notification`; a file of another format is emptied."""


class Waiting(NamedTuple):
    """A notification in a notifier's queue."""

    number: int
    notifier: str
    notification: Notification


class Storage:
    """The file, held by this process alone until `close`."""

    def __init__(self, path: Path) -> None:
        """Open the file or make it; one of another format is emptied.

        Raises `Refused` where another engine uses it, or it is no SQLite file.
        """
        self._path = path
        self._written = ""
        self._unwritten = count(-1, -1)
        try:
            self._file = _opened(path)
        except (sqlite3.Error, OSError) as error:
            raise unusable(path, error, "refold alerts") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read_state(self) -> dict[str, Any] | None:
        """Return the state that was written last."""
        row = self._file.execute(SQL["read_state"]).fetchone()
        return None if row is None else dict(json_text.loads(row[0].encode()))

    def read_outbox(self) -> list[Waiting]:
        """Return what is not delivered, oldest first."""
        return [
            Waiting(number, notifier, Notification.from_json(json_text.loads(text.encode())))
            for number, notifier, text in self._file.execute(SQL["read_outbox"])
        ]

    def write(
        self, state: Mapping[str, Any], notified: Sequence[tuple[str, Notification]] = ()
    ) -> list[Waiting]:
        """Write the state and its notifications, by notifier, both or neither, if anything has changed.

        Where the file cannot be written, the notifications are returned all the same, and delivered without it.
        """
        text = json_text.dumps(dict(state)).decode()
        if text == self._written and not notified:
            return []
        rows: list[int] = []

        def add() -> None:
            self._file.execute(SQL["write_state"], {"value": text})
            for notifier, notification in notified:
                stored = json_text.dumps(notification.to_json()).decode()
                row = self._file.execute(SQL["add_to_outbox"], {"notifier": notifier, "notification": stored})
                rows.append(row.lastrowid or 0)

        is_written = self._commit(add)
        self._written = text if is_written else ""
        numbers = rows if is_written else [next(self._unwritten) for _ in notified]
        return [Waiting(number, *one) for number, one in zip(numbers, notified, strict=True)]

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove what has been delivered or given up."""
        rows = [{"number": number} for number in numbers]
        if rows:
            self._commit(lambda: self._file.executemany(SQL["remove_from_outbox"], rows))

    def _commit(self, work: Callable[[], object]) -> bool:
        """Do it all or nothing; return whether it is done. A failure is logged: alerting goes on without the file."""
        try:
            self._file.execute("BEGIN IMMEDIATE")
            with self._file:
                work()
        except sqlite3.Error as error:
            get_logger().error("alert_state_not_written", path=str(self._path), error=str(error))
            return False
        return True


def _opened(path: Path) -> sqlite3.Connection:
    """Open the file, with the tables of this format."""
    # A crash of the machine must not lose what was notified: it would be notified again.
    file = open_alone(path, synchronous="FULL")
    try:
        (found,) = file.execute("PRAGMA user_version").fetchone()
        if found != FORMAT:
            file.execute("BEGIN IMMEDIATE")
            (tables,) = file.execute(SQL["count_tables"]).fetchone()
            for name in ("drop_state", "drop_outbox", "make_state", "make_outbox"):
                file.execute(SQL[name])
            file.execute(f"PRAGMA user_version = {FORMAT}")
            file.execute("COMMIT")
            if tables:
                get_logger().warning("alert_state_emptied", path=str(path), format=found)
    except BaseException:
        file.close()
        raise
    return file
