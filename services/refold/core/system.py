"""The events of `_refold`, by which the log speaks of itself: its genesis and its fold's number.

Used by the fold and by whoever makes or checks a log.
"""

from __future__ import annotations

from typing import Final

from refold.core import limits
from refold.core.canonical import Json
from refold.core.errors import LogDiffers, Refused
from refold.core.event import Event, decode
from refold.core.outcome import Kind
from refold.core.record import Record, author_headers

GENESIS_DOCUMENT: Final = "log"
FOLD_DOCUMENT: Final = "fold"

LIMITS_OF_FOLD_1: Final = {
    "depth": limits.DEPTH_MAX,
    "operations": limits.OPERATIONS_MAX,
    "state_bytes": limits.STATE_BYTES_MAX,
    "copy_bytes": limits.COPY_BYTES_MAX,
    "event_bytes": limits.EVENT_BYTES_MAX,
    "headers_bytes": limits.HEADERS_BYTES_MAX,
    "id_window_ids": limits.ID_WINDOW_IDS,
    "id_window_events": limits.ID_WINDOW_EVENTS,
}


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
    try:
        state = decode(author_headers(record.headers), record.body).value
        _check_genesis(state, record.sequence)
    except Refused as refused:
        raise LogDiffers(
            "sequence 1 is not a genesis of this program's kind", found=str(refused)
        ) from refused
    return str(state["log_id"])


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
    differing = [
        name for name in sorted(expected.keys() | state.keys()) if state.get(name) != expected.get(name)
    ]
    if differing:
        raise _bad(f"a genesis of fold {limits.FOLD_NEWEST} differs in {', '.join(differing)}")


def _check_fold(state: Json, fold_number: int) -> None:
    number = state.get("fold") if isinstance(state, dict) and len(state) == 1 else None
    if type(number) is not int or number <= fold_number:
        raise _bad(f"a fold's number is an integer above {fold_number}")


def _bad(rule: str) -> Refused:
    return Refused("bad_system_event", rule, field="_refold")
