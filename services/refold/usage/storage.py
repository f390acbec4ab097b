"""The SQLite file of the counts, with the checkpoint in the same transaction: killed at any time, they stay exact.

Used by `refold.usage.reader`, which adds events to it, and by `refold.usage.report`. One process at a time.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from refold.core.document import Status
from refold.core.errors import StoreDiffers, StoreFull, StoreUnavailable
from refold.store.exclusive import open_alone, unusable
from refold.store.sql import statements_of
from refold.usage import HOUR_NANOSECONDS, OTHER_SECTIONS, SECTIONS_MAX, SESSION_GAP_NANOSECONDS, Counted

SQL: Final = statements_of("refold.usage")

FORMAT: Final = 1
"""The format of the tables; a file of another format is emptied, and the log is counted again."""

WRONG: Final = -1
"""The format of a file whose counts were found to be wrong."""

NAMES_CACHED_MAX: Final = 100_000

CACHE_KIBIBYTES: Final = 32 * 1024
"""SQLite's own cache: the indexes of a large file do not fit into its default of 2 MiB."""

NONE: Final = 0
"""The number of a name that an event does not have."""

_COUNTS: Final = 8
_EVENTS, _EFFECTIVE, _MERGED, _REJECTED, _DUPLICATE, _CONFLICTS, _BYTES, _OPERATIONS = range(_COUNTS)
_FIRST, _LAST = _COUNTS, _COUNTS + 1

_CELLS: Final = {
    Status.applied: (_EFFECTIVE,),
    Status.merged: (_EFFECTIVE, _MERGED),
    Status.rejected: (_REJECTED,),
    Status.duplicate: (_DUPLICATE,),
}

Row = tuple[int, int, int, int, int]
"""Namespace, hour, actor, type and section."""


class Position(NamedTuple):
    """How far the log has been counted, and the latest time up to there."""

    sequence: int
    time: int


class _Session:
    """A run of one actor's events, or one session's, that may go on."""

    __slots__ = ("ended", "key", "number", "started")

    def __init__(self, number: int, key: tuple[int, int, int], started: int, ended: int) -> None:
        self.number = number
        self.key = key
        self.started = started
        self.ended = ended


class Storage:
    """The file, held by this process alone until `close`, and used by one thread at a time.

    `statuses` are all events by the number of their `Status`, as checkpoints count them.
    """

    def __init__(self, path: Path, log_id: str, totals: Collection[str] = ()) -> None:
        """Open the file or make it; a file of other `totals` or of another format is emptied.

        `totals` are the namespaces that are counted without actors and sessions. Raises `Refused` where another process
        uses the file or it is no such file, `StoreDiffers` where it is another log's or its counts are wrong.
        """
        self.path = path
        self.totals = frozenset(totals)
        self._lock = threading.RLock()
        self._names: dict[str, int] = {}
        self._sections: dict[int, dict[str, int]] = {}
        self._sessions: dict[tuple[int, int, int], _Session] = {}
        given = (FORMAT, log_id, ",".join(sorted(totals)))
        try:
            self.file, found = _opened(path)
            if found is not None and found[:3] != given:
                self.file.close()
                if found[1] != log_id:
                    message = f"{path} has the counts of another log: move it away"
                    raise StoreDiffers(message, expected=log_id, found=found[1])
                if found[0] == WRONG:
                    raise differing(path)
                _remove(path)
                self.file, found = _opened(path)
            if found is None:
                self.file.execute(SQL["begin_log"], given)
            self.position = Position(0, 0) if found is None else Position(*found[3:])
            self._load()
            if sum(self.statuses) != self.position.sequence:
                self.file.close()
                raise differing(path, sequence=self.position.sequence, found=str(self.statuses))
        except (sqlite3.Error, OSError) as error:
            raise unusable(path, error, "refold usage") from error

    @contextmanager
    def using(self) -> Iterator[None]:
        """Wait until no other thread uses the file, and keep the others waiting."""
        with self._lock:
            yield

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self.file.close()

    def mark_wrong(self) -> None:
        """Mark the file, so that it is refused when it is opened again."""
        with self._lock:
            self.file.execute(SQL["set_format"], (WRONG,))

    def _load(self) -> None:
        """Read what the next events are compared with."""
        self._names.clear()
        self._sections.clear()
        self._sessions.clear()
        for namespace, section, number in self.file.execute(SQL["read_sections"]):
            self._sections.setdefault(namespace, {})[section] = number
        after = self.position.time - SESSION_GAP_NANOSECONDS
        for number, *key, started, ended in self.file.execute(SQL["open_sessions"], (after,)):
            names = key[0], key[1], key[2]
            # Of several, the last one: an actor's sessions are in the order of their numbers.
            self._sessions[names] = _Session(number, names, started, ended)
        (self._last_session,) = self.file.execute(SQL["last_session"]).fetchone()
        self.statuses: list[int] = list(self.file.execute(SQL["status_counts"]).fetchone())

    def add(self, events: Sequence[Counted], position: Position) -> None:
        """Count events up to a position, all or none. Raises `StoreFull`, `StoreUnavailable`."""
        with self._lock:
            self._add(events, position)

    def _add(self, events: Sequence[Counted], position: Position) -> None:
        rows: dict[Row, list[int]] = {}
        documents: dict[tuple[Row, int], None] = {}
        sessions: dict[_Session, list[int]] = {}
        try:
            with self._transaction():
                for event in events:
                    self._count(event, rows, documents, sessions)
                self._write(rows, documents, sessions)
                self.file.execute(SQL["advance"], position)
        except sqlite3.Error as error:
            # Numbers that were given are free again.
            self._load()
            kind = StoreFull if error.sqlite_errorcode == sqlite3.SQLITE_FULL else StoreUnavailable
            raise kind(f"{self.path} cannot be written: {error}") from error
        self.position = position
        for counts in rows.values():
            for status, cell in enumerate((_EFFECTIVE, _MERGED, _REJECTED, _DUPLICATE)):
                self.statuses[status] += counts[cell]
            self.statuses[Status.applied] -= counts[_MERGED]
        self._forget(position.time)

    def _count(
        self,
        event: Counted,
        rows: dict[Row, list[int]],
        documents: dict[tuple[Row, int], None],
        sessions: dict[_Session, list[int]],
    ) -> None:
        sequence, time, namespace, document, status, is_conflict, actor, kind, session, size, sections = event
        number, numbers = self._number, self._names
        home = numbers.get(namespace) or number(namespace)
        who = NONE if actor is None else numbers.get(actor) or number(actor)
        what = NONE if kind is None else numbers.get(kind) or number(kind)
        name = f"{namespace}/{document}"
        named = numbers.get(name) or number(name)
        hour = time // HOUR_NANOSECONDS
        places = [self._section(home, section) for section in sections] or [NONE]
        row = home, hour, who, what, places[0]
        run = self._session(
            home, who, NONE if session is None else numbers.get(session) or number(session), time
        )
        counts, of_session = _cells(rows, row, sequence), _cells(sessions, run, sequence)
        for cells in (counts, of_session):
            cells[_EVENTS] += 1
            cells[_CONFLICTS] += is_conflict
            cells[_BYTES] += size
            for cell in _CELLS[status]:
                cells[cell] += 1
        documents[row, named] = None
        if sections:
            of_session[_OPERATIONS] += len(sections)
            for place in places:
                if place == row[4]:
                    counts[_OPERATIONS] += 1
                    continue
                of_place = home, hour, who, what, place
                _cells(rows, of_place, sequence)[_OPERATIONS] += 1
                documents[of_place, named] = None

    def _write(
        self,
        rows: dict[Row, list[int]],
        documents: dict[tuple[Row, int], None],
        sessions: dict[_Session, list[int]],
    ) -> None:
        execute = self.file.execute
        numbers = {row: execute(SQL["count"], (*row, *counts)).fetchone()[0] for row, counts in rows.items()}
        self.file.executemany(SQL["add_document"], ((numbers[row], document) for row, document in documents))
        self.file.executemany(
            SQL["count_session"],
            ((run.number, *run.key, run.started, run.ended, *counts) for run, counts in sessions.items()),
        )

    def _section(self, namespace: int, section: str) -> int:
        """Return the number of a section, or of `OTHER_SECTIONS` where the namespace has too many."""
        known = self._sections.setdefault(namespace, {})
        number = known.get(section)
        if number is None:
            if len(known) >= SECTIONS_MAX:
                return self._number(OTHER_SECTIONS)
            number = known[section] = self._number(section)
            self.file.execute(SQL["add_section"], (namespace, number))
        return number

    def _session(self, namespace: int, actor: int, session: int, time: int) -> _Session:
        """Return the session that an event belongs to, which may begin with it."""
        key = namespace, actor, session
        found = self._sessions.get(key)
        if found is None or time - found.ended >= SESSION_GAP_NANOSECONDS:
            self._last_session += 1
            found = self._sessions[key] = _Session(self._last_session, key, time, time)
        found.ended = time
        return found

    def _number(self, text: str) -> int:
        """Return the number of a text, which may be a new one."""
        number = self._names.get(text)
        if number is None:
            found = self.file.execute(SQL["find_name"], (text,)).fetchone()
            number = int(found[0]) if found else self.file.execute(SQL["add_name"], (text,)).lastrowid
            assert number
            if len(self._names) >= NAMES_CACHED_MAX:
                self._names.clear()
            self._names[text] = number
        return number

    def _forget(self, time: int) -> None:
        """Forget sessions that no event can continue."""
        if len(self._sessions) > NAMES_CACHED_MAX:
            after = time - SESSION_GAP_NANOSECONDS
            self._sessions = {key: each for key, each in self._sessions.items() if each.ended > after}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.file.execute("BEGIN IMMEDIATE")
        with self.file:
            yield


def differing(path: Path, **facts: object) -> StoreDiffers:
    """Return the error for counts that are wrong."""
    message = (
        f"the counts in {path} are not those of the projection: remove the file to count again, and run "
        "`refold verify` if it stays"
    )
    return StoreDiffers(message, **facts)


def _cells(rows: dict[Any, list[int]], row: Any, sequence: int) -> list[int]:
    """Return the counts of a row, whose last event is at the sequence."""
    found = rows.get(row)
    if found is None:
        found = rows[row] = [0] * _COUNTS + [sequence, sequence]
    found[_LAST] = sequence
    return found


def _opened(path: Path) -> tuple[sqlite3.Connection, tuple[Any, ...] | None]:
    """Open the file and lock it; return what it says of its log, None where it is new."""
    # A crash of the machine may lose the last commits with their checkpoint: the events are counted again.
    file = open_alone(path, synchronous="NORMAL")
    try:
        file.execute(f"PRAGMA cache_size = {-CACHE_KIBIBYTES}")
        for name in _TABLES:
            file.execute(SQL[name])
        return file, file.execute(SQL["read_log"]).fetchone()
    except BaseException:
        file.close()
        raise


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


_TABLES: Final = (
    "make_log",
    "make_names",
    "make_sections",
    "make_counts",
    "make_documents",
    "make_sessions",
    "make_sessions_index",
)
