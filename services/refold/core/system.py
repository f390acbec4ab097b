"""The genesis: the event at sequence 1, by which a log names itself, its partitions and its fold.

Made and read by whoever creates or opens a log. The rules of all events of `_refold` belong to the fold.
"""

from __future__ import annotations

from refold.core.canonical import Json
from refold.core.envelope import open_envelope
from refold.core.errors import LogDiffers, Refused
from refold.core.fold import NEWEST, Rules, rules_of
from refold.core.fold.v1 import RULES as FIRST
from refold.core.fold.v1 import check_system_event
from refold.core.limits import FOLD_MAX
from refold.core.record import GENESIS_DOCUMENT, SYSTEM_NAMESPACE, Record, author_headers, place


def genesis(log_id: str, rules: Rules = NEWEST) -> dict[str, Json]:
    """Return the event that begins a log: `put` of what all who fold it must agree on."""
    return {"put": rules.genesis_state(log_id)}


def genesis_rules(record: Record) -> Rules:
    """Return the rules that the event at sequence 1 names, or those of fold 1 where it names none.

    Raises `FoldUnknown`.
    """
    try:
        state = open_envelope(author_headers(record.headers), record.body, FIRST.limits).fields.get("put")
    except Refused:
        return FIRST
    number = state.get("fold") if isinstance(state, dict) else None
    return rules_of(number, record.sequence) if type(number) is int and 1 <= number <= FOLD_MAX else FIRST


def read_genesis(record: Record) -> str:
    """Return the log id from a log's first event.

    Raises `LogDiffers` where it is no genesis, `FoldUnknown` where its number is one that this program does not know.
    """
    where = place(record.subject)
    if (where.namespace, where.document) != (SYSTEM_NAMESPACE, GENESIS_DOCUMENT):
        raise LogDiffers("sequence 1 is not a genesis", subject=record.subject)
    rules = genesis_rules(record)
    _, event, refused = rules.decode(record, rules)
    try:
        if event is None:
            assert refused is not None
            raise refused
        check_system_event(GENESIS_DOCUMENT, event, record.sequence, rules)
    except Refused as broken:
        message = "sequence 1 is not a genesis of this program's kind"
        raise LogDiffers(message, found=str(broken)) from broken
    return str(event.value["log_id"])
