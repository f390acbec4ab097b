"""Answer what was counted, grouped, as plain JSON. Used by the command `refold usage` and by the usage service."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, Self, get_args

from refold.core.errors import Refused
from refold.core.stream import check_name
from refold.core.timestamp import TIME_MAX_NANOSECONDS, TIME_MIN_NANOSECONDS, format_time, parse_time
from refold.usage import HOUR_NANOSECONDS
from refold.usage.storage import SQL, Storage

Grouping = Literal["hour", "actor", "type", "section", "session", "namespace"]

_FIRST_HOUR: Final = TIME_MIN_NANOSECONDS // HOUR_NANOSECONDS
_LAST_HOUR: Final = -(-TIME_MAX_NANOSECONDS // HOUR_NANOSECONDS)

GROUPINGS: Final[tuple[str, ...]] = get_args(Grouping)

ROWS_MAX: Final = 1_000
"""Rows of one answer; `total` has what the others count, too."""

COUNTS: Final = (
    "events",
    "effective",
    "merged",
    "rejected",
    "duplicate",
    "conflicts",
    "bytes",
    "operations",
)
"""What sums to the same over the rows of every grouping."""


class Question(NamedTuple):
    """What is asked: a namespace (None: all), how to group, and the hours from one to before another."""

    namespace: str | None
    by: str
    from_hour: int
    until_hour: int

    @classmethod
    def read(
        cls,
        namespace: str | None,
        by: str | None = None,
        *,
        begin: str | None = None,
        end: str | None = None,
        now: int | None = None,
    ) -> Self:
        """Read a question; `begin` and `end` are times, widened to whole hours. Raises `Refused`.

        Times may be relative to `now` where that is given.
        """
        if namespace is not None:
            check_name(namespace, "namespace")
        by = by or ("namespace" if namespace is None else "hour")
        if by not in GROUPINGS:
            raise Refused(
                "bad_usage", f"must be one of {', '.join(GROUPINGS)}", field="by", shape=repr(by[:40])
            )
        first = TIME_MIN_NANOSECONDS if begin is None else parse_time(begin, "from", now=now)
        last = TIME_MAX_NANOSECONDS if end is None else parse_time(end, "to", now=now)
        if first > last:
            raise Refused("bad_usage", "must not be after `to`", field="from", shape=f"{begin}, to {end}")
        from_hour = first // HOUR_NANOSECONDS
        return cls(namespace, by, from_hour, max(-(-last // HOUR_NANOSECONDS), from_hour + 1))


def answer(storage: Storage, question: Question) -> dict[str, Any]:
    """Answer a question. Raises `Refused` (`namespace_unknown`) where the namespace has no event."""
    name = question.namespace
    if name is not None and not storage.file.execute(SQL["has_namespace"], (name,)).fetchone()[0]:
        raise Refused("namespace_unknown", f"no event of a namespace {name} is counted", field="namespace")
    rows = _sessions(storage, question) if question.by == "session" else _groups(storage, question)
    total = {count: sum(row[count] for row in rows) for count in COUNTS}
    return {
        "namespace": name,
        "by": question.by,
        "from": None if question.from_hour == _FIRST_HOUR else _hour_text(question.from_hour),
        "to": None if question.until_hour == _LAST_HOUR else _hour_text(question.until_hour),
        "sequence": storage.position.sequence,
        "total": total,
        "groups": len(rows),
        "rows": rows[:ROWS_MAX],
    }


def _groups(storage: Storage, question: Question) -> list[dict[str, Any]]:
    asked = (question.namespace, question.from_hour, question.until_hour)
    found = {row["name"]: row for row in _read(storage, "count_groups", question.by, asked)}
    for row in _read(storage, "count_documents", question.by, asked):
        found[row["name"]]["documents"] = row["documents"]
    rows = [_named(storage, question.by, row) for row in found.values()]
    if question.by == "hour":
        return sorted(rows, key=lambda row: row["hour"])
    return sorted(rows, key=lambda row: (-row["events"], -row["operations"], row["first_sequence"]))


def _sessions(storage: Storage, question: Question) -> list[dict[str, Any]]:
    """Return the sessions by actor; events without actor and session are in the row without a name."""
    limits = (_within(hour * HOUR_NANOSECONDS) for hour in question[2:])
    rows = []
    for row in _read(storage, "count_session_groups", "actor", (question.namespace, *limits)):
        seconds = row.pop("nanoseconds") / 1e9
        sessions = {"seconds": seconds, "longest_seconds": row.pop("longest") / 1e9}
        # What has no length has no rate.
        per_minute = row["effective"] / (seconds / 60) if seconds >= 60 else None
        rows.append(_named(storage, "actor", row | sessions | {"effective_per_minute": per_minute}))
    return sorted(rows, key=lambda row: (-row["sessions"], -row["events"], row["first_sequence"]))


def _read(storage: Storage, statement: str, by: str, asked: tuple[Any, ...]) -> list[dict[str, Any]]:
    cursor = storage.file.execute(SQL[statement].replace("{group}", by), asked)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _named(storage: Storage, by: str, row: dict[str, Any]) -> dict[str, Any]:
    """Put what a row is of first, by its name."""
    number = row.pop("name")
    if by == "hour":
        return {by: _hour_text(number), **row}
    found = storage.file.execute(SQL["read_name"], (number,)).fetchone()
    return {by: None if found is None else found[0], **row}


def _hour_text(hour: int) -> str:
    return format_time(_within(hour * HOUR_NANOSECONDS))


def _within(time: int) -> int:
    return max(TIME_MIN_NANOSECONDS, min(TIME_MAX_NANOSECONDS, time))
