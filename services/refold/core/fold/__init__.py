"""The fold: (document, event) -> (document, outcome), pure, by the rules that a number names.

A number's rules never change once they are released. A log's genesis, and later events in `_refold`, say which number
is in force; a program that does not know it stops (`FoldUnknown`).
"""

from __future__ import annotations

from typing import Any, Final

from refold.core.document import Document
from refold.core.envelope import open_envelope
from refold.core.errors import FoldUnknown, LogDiffers, Refused
from refold.core.fold import v1, v2
from refold.core.fold.decide import decide
from refold.core.fold.rules import FOLD_MAX, Decoded, Folded, Rules, Window
from refold.core.json_text import Json
from refold.core.stream import GENESIS_DOCUMENT, SYSTEM_NAMESPACE, Record, author_headers, route

RULES: Final[dict[int, Rules]] = {1: v1.RULES, 2: v2.RULES}
"""Every number that this program knows."""

NEWEST: Final = v2.RULES
"""The rules of a log that is created now."""

EVENT_BYTES_MAX: Final = NEWEST.limits.event_bytes
HEADERS_BYTES_MAX: Final = NEWEST.limits.headers_bytes
ID_CHARS_MAX: Final = NEWEST.limits.id_chars
OPERATIONS_MAX: Final = NEWEST.limits.operations
STATE_BYTES_MAX: Final = NEWEST.limits.state_bytes
"""For checks before an event is published; the fold of a log applies the limits of its own number."""

ID_WINDOW_IDS: Final = max(rules.limits.id_window_ids for rules in RULES.values())
ID_WINDOW_EVENTS: Final = max(rules.limits.id_window_events for rules in RULES.values())
"""How much of a document's dedup window a store loads, whatever number is in force."""


def rules_of(number: int, sequence: int | None = None) -> Rules:
    """Return a number's rules. Raises `FoldUnknown`, which names the number and the event that asks for it."""
    if number not in RULES:
        at: dict[str, Any] = {} if sequence is None else {"sequence": sequence}
        raise FoldUnknown(fold=number, known=max(RULES), **at)
    return RULES[number]


def fold(
    document: Document,
    record: Record,
    rules: Rules,
    *,
    recorded_at: int,
    decoded: Decoded | None = None,
    window: Window = None,
) -> Folded:
    """Fold one event into its document, in place.

    Args:
        document: the document at its head.
        record: the event as recorded.
        rules: those in force at the event's sequence.
        recorded_at: the broker's time of the record, made monotonic over the log.
        decoded: the result of `rules.decode`, where the record was decoded before.
        window: the document's changes from the version that `rules.needs` returned.

    An event that breaks any rule has the outcome `rejected` and leaves the state as it was.
    """
    if decoded is None:
        decoded = rules.decode(record, rules)
    document.events += 1
    document.last_sequence = record.sequence
    document.last_recorded_at = recorded_at
    return decide(document, record, decoded, recorded_at, rules, window)


def genesis(log_id: str, rules: Rules = NEWEST) -> dict[str, Json]:
    """Return the event that begins a log: `put` of what everything that folds it must agree on."""
    return {"put": rules.genesis_state(log_id)}


def genesis_rules(record: Record) -> Rules:
    """Return the rules that the event at sequence 1 names, or those of fold 1 where it names none.

    Raises `FoldUnknown`.
    """
    try:
        state = open_envelope(author_headers(record.headers), record.body, v1.RULES.limits).fields.get("put")
    except Refused:
        return v1.RULES
    number = state.get("fold") if isinstance(state, dict) else None
    return rules_of(number, record.sequence) if type(number) is int and 1 <= number <= FOLD_MAX else v1.RULES


def read_genesis(record: Record) -> str:
    """Return the log id from a log's first event. Raises `LogDiffers` where it is no genesis, `FoldUnknown`."""
    where = route(record.subject)
    if (where.namespace, where.document) != (SYSTEM_NAMESPACE, GENESIS_DOCUMENT):
        raise LogDiffers("sequence 1 is not a genesis", subject=record.subject)
    document = Document.new(where)
    outcome = fold(document, record, genesis_rules(record), recorded_at=record.time).outcome
    if not outcome.status.is_effective:
        raise LogDiffers("sequence 1 is not a genesis of this program's kind", found=outcome.detail)
    return str(document.state["log_id"])
