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

_BY_EVENTS: Final = "events DESC, operations DESC, first_sequence"
_BY_SESSIONS: Final = "sessions DESC, events DESC, first_sequence"


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
    """Answer a question, in any thread. Raises `Refused` (`namespace_unknown`) where the namespace has no event."""
    name = question.namespace
    with storage.using():
        if name is not None and not storage.file.execute(SQL["has_namespace"], (name,)).fetchone()[0]:
            raise Refused(
                "namespace_unknown", f"no event of a namespace {name} is counted", field="namespace"
            )
        total, rows = (_sessions if question.by == "session" else _groups)(storage, question)
        sequence = storage.position.sequence
    return {
        "namespace": name,
        "by": question.by,
        "from": None if question.from_hour == _FIRST_HOUR else _hour_text(question.from_hour),
        "to": None if question.until_hour == _LAST_HOUR else _hour_text(question.until_hour),
        "sequence": sequence,
        "total": {count: total[count] for count in COUNTS},
        "groups": total["groups"],
        "rows": rows,
    }


Found = tuple[dict[str, Any], list[dict[str, Any]]]
"""The sums over all groups with their number, and the rows of the first `ROWS_MAX`."""


def _groups(storage: Storage, question: Question) -> Found:
    by, asked = question.by, (question.namespace, question.from_hour, question.until_hour)
    [total] = _read(storage, "count_total", *asked, group=by, table="counts", time="hour")
    order = "name" if by == "hour" else _BY_EVENTS
    found = _read(storage, "count_groups", *asked, ROWS_MAX, group=by, order=order)
    return total, [_named(by, row) for row in found]


def _sessions(storage: Storage, question: Question) -> Found:
    """Return the sessions by actor; events without actor and session are in the row without a name."""
    asked = (question.namespace, *(_within(hour * HOUR_NANOSECONDS) for hour in question[2:]))
    [total] = _read(storage, "count_total", *asked, group="actor", table="sessions", time="started")
    rows = []
    for row in _read(storage, "count_session_groups", *asked, ROWS_MAX, order=_BY_SESSIONS):
        seconds = row.pop("nanoseconds") / 1e9
        sessions = {"seconds": seconds, "longest_seconds": row.pop("longest") / 1e9}
        # What has no length has no rate.
        per_minute = row["effective"] / (seconds / 60) if seconds >= 60 else None
        rows.append(_named("actor", row | sessions | {"effective_per_minute": per_minute}))
    return total, rows


def _read(storage: Storage, statement: str, *asked: Any, **names: str) -> list[dict[str, Any]]:
    cursor = storage.file.execute(SQL[statement].format(**names), asked)
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def _named(by: str, row: dict[str, Any]) -> dict[str, Any]:
    """Put what a row is of first, by its name."""
    number, text = row.pop("name"), row.pop("text")
    return {by: _hour_text(number) if by == "hour" else text, **row}


def _hour_text(hour: int) -> str:
    return format_time(_within(hour * HOUR_NANOSECONDS))


def _within(time: int) -> int:
    return max(TIME_MIN_NANOSECONDS, min(TIME_MAX_NANOSECONDS, time))
