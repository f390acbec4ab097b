"""The events of `_refold`, by which the log speaks of itself: its genesis and its fold's number.

Used by the fold and by whoever makes or checks a log.
"""

from __future__ import annotations

from typing import Final

from refold.core import canonical, limits
from refold.core.canonical import Json
from refold.core.errors import LogDiffers, Refused
from refold.core.event import Event, decode
from refold.core.outcome import Kind
from refold.core.record import SYSTEM_NAMESPACE, Record, author_headers, place

GENESIS_DOCUMENT: Final = "log"
FOLD_DOCUMENT: Final = "fold"

LIMITS_OF_FOLD_1: Final = {
    "depth": limits.DEPTH_MAX,
    "operations": limits.OPERATIONS_MAX,
    "state_bytes": limits.STATE_BYTES_MAX,
    "copy_bytes": limits.COPY_BYTES_MAX,
    "shifts": limits.SHIFTS_MAX,
    "event_bytes": limits.EVENT_BYTES_MAX,
    "headers_bytes": limits.HEADERS_BYTES_MAX,
    "text_depth": limits.TEXT_DEPTH_MAX,
    "name_chars": limits.NAME_CHARS_MAX,
    "id_chars": limits.ID_CHARS_MAX,
    "id_window_ids": limits.ID_WINDOW_IDS,
    "id_window_events": limits.ID_WINDOW_EVENTS,
    "occurred_ahead_nanoseconds": limits.OCCURRED_AHEAD_NANOSECONDS,
}
"""Every bound that can alter an outcome."""


def genesis(log_id: str) -> dict[str, Json]:
    """Return the event that begins a log: `put` of what all who fold it must agree on."""
    state = {
        "log_id": log_id,
        "partitions": limits.PARTITIONS,
        "fold": limits.FOLD_NEWEST,
        "limits": LIMITS_OF_FOLD_1,
    }
    return {"put": state}


def read_genesis(record: Record) -> str:
    """Return the log id out of a log's first event. Raises `LogDiffers` where it is none that this program folds."""
    where = place(record.subject)
    if (where.namespace, where.document) != (SYSTEM_NAMESPACE, GENESIS_DOCUMENT):
        raise LogDiffers("sequence 1 is not a genesis", subject=record.subject)
    try:
        event = decode(author_headers(record.headers), record.body)
        check_system_event(GENESIS_DOCUMENT, event, record.sequence, limits.FOLD_NEWEST)
    except Refused as refused:
        message = "sequence 1 is not a genesis of this program's kind"
        raise LogDiffers(message, found=str(refused)) from refused
    return str(event.value["log_id"])


def check_system_event(document: str, event: Event, sequence: int, fold_number: int) -> None:
    """Refuse a system event that is not valid. Raises `Refused`."""
    if event.kind is not Kind.put:
        raise _bad("system documents are put whole")
    if document == GENESIS_DOCUMENT:
        _check_genesis(event.value, sequence)
    elif document == FOLD_DOCUMENT:
        _check_fold(event.value, fold_number)
    else:
        raise _bad("there is no such system document")


def _check_genesis(state: Json, sequence: int) -> None:
    if sequence != 1:
        raise _bad("a genesis stands at sequence 1")
    if not isinstance(state, dict) or not isinstance(state.get("log_id"), str) or not state["log_id"]:
        raise _bad("a genesis names its log_id")
    expected = genesis(state["log_id"])["put"]
    # Not by `==`, which takes true for 1.
    if canonical.identical(state, expected):
        return
    names = sorted(expected.keys() | state.keys())
    differing = [
        name
        for name in names
        if name not in state or name not in expected or not canonical.identical(state[name], expected[name])
    ]
    raise _bad(f"a genesis of fold {limits.FOLD_NEWEST} differs in {', '.join(differing)}")


def _check_fold(state: Json, fold_number: int) -> None:
    number = state.get("fold") if isinstance(state, dict) and len(state) == 1 else None
    if type(number) is not int or not fold_number < number <= limits.FOLD_MAX:
        raise _bad(f"a fold's number is an integer above {fold_number}, at most {limits.FOLD_MAX}")


def _bad(rule: str) -> Refused:
    return Refused("bad_system_event", rule, field="_refold")
