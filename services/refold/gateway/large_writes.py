"""A PUT of a state that is too large for one event: several events of one document, in one atomic batch.

Each takes a version; the last one is the answer's, and carries the author's id. Used by the route that puts.
"""

from __future__ import annotations

from typing import Final

from refold.core import json_text
from refold.core.errors import TimedOut
from refold.core.fold import EVENT_BYTES_MAX, STATE_BYTES_MAX
from refold.core.json_text import Json
from refold.core.split import SplitWrite, split_write
from refold.gateway.context import Context
from refold.gateway.limits import APPEND_ATTEMPTS_MAX
from refold.gateway.requests import Condition
from refold.gateway.responses import RETRY, Problem
from refold.gateway.writes import Draft, Written, recover, refuse_condition
from refold.log import Appended, Publication, Stale

PUT_BYTES_MAX: Final = STATE_BYTES_MAX + EVENT_BYTES_MAX
"""Body of a PUT: a state as it is answered, or one with a little white space."""

_SPLIT_BYTES_MIN: Final = EVENT_BYTES_MAX // 2
"""With a smaller state, no event is too large for its state."""

_BASE_FIELDS: Final = frozenset({"base", "on_conflict"})


def split_of(made: Draft) -> SplitWrite | None:
    """Return the events that a PUT is written as; None where it fits into one.

    Raises `Refused` where no document may be so large, `Problem` where the author names a base of his own.
    """
    state = made.fields.get("put")
    if json_text.size(state) < _SPLIT_BYTES_MIN or json_text.size(made.fields) <= EVENT_BYTES_MAX:
        return None
    if not _BASE_FIELDS.isdisjoint(made.fields):
        detail = "a state that is written as several events takes If-Match instead of Refold-Base"
        raise Problem(422, "contradictory", detail, field="refold-base")
    return split_write(state, {name: value for name, value in made.fields.items() if name != "put"})


async def append_large(
    context: Context, made: Draft, write: SplitWrite, condition: Condition | None, deadline: float
) -> Written:
    """Append all events or none, at the document's head; return the last one.

    Raises 412 where the condition does not hold, 409 where the id was used for something else.
    """
    folded_sequence = context.consistency.sequence
    for _ in range(APPEND_ATTEMPTS_MAX):
        if not await context.consistency.catch_up(deadline, made.key):
            raise TimedOut("the projection has not caught up with the log in time; nothing was published")
        known = await _repeated(context, made, write)
        if known is not None:
            return known
        row = await context.store.head(*made.key)
        head = context.head_cache.put_row(made.key, row)
        if condition is not None and not condition.holds(head.version, is_absent=head.is_absent):
            refuse_condition(head.version, is_absent=head.is_absent)
        publications = _publications(made, write, head.version, head.last_sequence)
        written = await _append(context, publications, folded_sequence, made.id)
        if written is not None:
            return written
    detail = f"others wrote to the document each of {APPEND_ATTEMPTS_MAX} times; nothing was published"
    raise Problem(503, "contended", detail, headers=RETRY)


def _publications(made: Draft, write: SplitWrite, version: int, last_sequence: int) -> list[Publication]:
    """Return what the log takes only while the document's last event is this one."""
    return [
        Publication(
            namespace=made.namespace,
            document=made.document,
            body=body,
            headers=made.headers,
            expected_last_sequence=None if at else last_sequence,
        )
        for at, body in enumerate(write.bodies(version))
    ]


async def _append(
    context: Context, publications: list[Publication], folded_sequence: int, event_id: str
) -> Written | None:
    """Append once; None where nothing was stored."""
    answer = await context.log.append_atomically(publications)
    if isinstance(answer, Stale):
        return None
    if isinstance(answer, list):
        last = answer[-1]
        assert isinstance(last, Appended)
        return Written(last.sequence)
    first = await recover(context, publications, folded_sequence, event_id=event_id)
    return None if first is None else Written(first + len(publications) - 1)


async def _repeated(context: Context, made: Draft, write: SplitWrite) -> Written | None:
    """Find the events that the author sends again under his own id: the last has it, the others stand before it."""
    names = (made.namespace, made.document)
    last = await context.store.find_id(*names, made.id) if made.has_own_id else None
    if last is None:
        return None
    first_sequence = last.sequence - len(write) + 1
    for at, body in enumerate(write.bodies(0)):
        entry = await context.store.entry(*names, first_sequence + at)
        if entry is None or not _is_same(entry.body, body):
            raise Problem(409, "rejected", "the id was used for another event", reason="id_reused")
    outcome = await context.history.outcome(*names, last.sequence)
    first = await context.history.outcome(*names, first_sequence)
    return Written(last.sequence, outcome and as_whole(outcome, first), is_repeat=True)


def as_whole(last: dict[str, Json], first: dict[str, Json] | None) -> dict[str, Json]:
    """Show the last event's outcome as the whole write's: the first event says whether it created the document."""
    if first is None or "created" not in last:
        return last
    return {**last, "created": first.get("created", False)}


def _is_same(recorded: bytes, ours: bytes) -> bool:
    """Compare two events, whatever version each was written at."""
    return json_text.identical(_without_base(recorded), _without_base(ours))


def _without_base(body: bytes) -> dict[str, Json]:
    fields = json_text.loads(body)
    return {name: value for name, value in fields.items() if name not in _BASE_FIELDS}
