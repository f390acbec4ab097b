"""A PUT of a state that is too large for one event: several events of one document, in one atomic batch.

Each takes a version. The last one is the answer's, and carries the author's own id; the others have ids made of it and
of the state, so that the same PUT sent again is known as a whole. Used by the route that puts.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Final

from refold.core import canonical
from refold.core.canonical import Json
from refold.core.errors import Refused, TimedOut
from refold.core.limits import (
    APPEND_ATTEMPTS_MAX,
    BATCH_EVENTS_MAX,
    EVENT_BYTES_MAX,
    LOST_ATTEMPTS_MAX,
    STATE_BYTES_MAX,
)
from refold.core.parts import PART_BYTES_MAX, split_state
from refold.gateway.conditions import Condition
from refold.gateway.draft import Draft
from refold.gateway.parts import Parts
from refold.gateway.problems import RETRY, Problem
from refold.gateway.recovery import catch_up, recover
from refold.gateway.strict import refuse_condition
from refold.gateway.submit import Written, never_acknowledged, repeated
from refold.log import Appended, Publication, Stale
from refold.log.admission import ATOMIC_BYTES_MAX

PUT_BYTES_MAX: Final = STATE_BYTES_MAX + EVENT_BYTES_MAX
"""Body of a PUT: a state as it is answered, or one with a little white space."""


def is_large(made: Draft) -> bool:
    """Tell whether a draft of a PUT does not fit into one event. Raises `Refused` where no document may be so large."""
    size = canonical.size(made.fields["put"])
    if size > STATE_BYTES_MAX:
        rule = f"a state has at most {STATE_BYTES_MAX} canonical bytes"
        raise Refused("state_too_large", rule, field="body", shape=f"{size} bytes")
    return size > PART_BYTES_MAX and canonical.size(made.fields) > EVENT_BYTES_MAX


def drafts_of(made: Draft) -> list[Draft]:
    """Return a draft for each part, in order. Raises `Refused` where they are too many, or one is still too large.

    A `base` of the author's is refused: were the first part rejected for it, the next could still fit.
    """
    if "base" in made.fields:
        detail = "a state that is written in several events takes If-Match instead of Refold-Base"
        raise Problem(422, "contradictory", detail, field="refold-base")
    about = {name: value for name, value in made.fields.items() if name != "put"}
    state = made.fields["put"]
    changes = split_state(state, PART_BYTES_MAX)
    _check_bounds(changes)
    digest = sha256(made.id.encode() + b"\0" + canonical.dumps(state)).hexdigest()[:32]
    drafts = [
        replace(made, fields={**about, **change, "id": f"part:{digest}:{at}"}, has_own_id=True)
        for at, change in enumerate(changes[:-1])
    ]
    return [*drafts, replace(made, fields={**about, **changes[-1]})]


async def append_large(
    parts: Parts,
    drafts: list[Draft],
    publications: list[Publication],
    condition: Condition | None,
    deadline: float,
) -> Written:
    """Append all parts or none; return the last one. Raises 412 where the condition does not hold."""
    if condition is not None or drafts[-1].has_own_id:
        return await _append_at_head(parts, drafts, condition, deadline)
    folded_sequence = parts.progress.sequence
    for _ in range(LOST_ATTEMPTS_MAX):
        written = await _append(parts, publications, folded_sequence, drafts[-1].id)
        if written is not None:
            return written
    raise never_acknowledged()


async def _append_at_head(
    parts: Parts, drafts: list[Draft], condition: Condition | None, deadline: float
) -> Written:
    """Append at the document's head, each part at the version that the one before it makes.

    So nothing comes between the look for the author's id, and the parts: were the last one rejected for its id, the
    others would have been folded.
    """
    folded_sequence = parts.progress.sequence
    namespace, document = drafts[-1].namespace, drafts[-1].document
    for _ in range(APPEND_ATTEMPTS_MAX):
        if not await catch_up(parts, deadline):
            raise TimedOut("the projection has not caught up with the log in time; nothing was published")
        known = await _repeated(parts, drafts)
        if known is not None:
            return known
        row = await parts.store.head(namespace, document)
        head = parts.seen.note_row(namespace, document, row)
        if condition is not None and not condition.holds(head.version, is_absent=head.is_absent):
            refuse_condition(head.version, is_absent=head.is_absent)
        publications = [
            draft.strict_publication(head.version + at, head.last_sequence if at == 0 else None)
            for at, draft in enumerate(drafts)
        ]
        written = await _append(parts, publications, folded_sequence, drafts[-1].id)
        if written is not None:
            return written
    detail = f"others wrote to the document each of {APPEND_ATTEMPTS_MAX} times; nothing was published"
    raise Problem(503, "contended", detail, headers=RETRY)


async def _append(
    parts: Parts, publications: list[Publication], folded_sequence: int, event_id: str
) -> Written | None:
    """Append once; None where nothing was stored."""
    answer = await parts.log.append_atomically(publications)
    if isinstance(answer, Stale):
        return None
    if isinstance(answer, list):
        last = answer[-1]
        assert isinstance(last, Appended)
        return Written(last.sequence)
    first = await recover(parts, publications, folded_sequence, event_id=event_id)
    return None if first is None else Written(first + len(publications) - 1)


async def _repeated(parts: Parts, drafts: list[Draft]) -> Written | None:
    """Find the events that the author sends again, by the ids of the last and of the first part."""
    last = drafts[-1]
    if not last.has_own_id or await parts.store.find_id(last.namespace, last.document, last.id) is None:
        return None
    known = await repeated(parts, last)
    if known is not None and await repeated(parts, drafts[0]) is not None:
        return known
    raise Problem(409, "rejected", "the id was used for another event", reason="id_reused")


def _check_bounds(changes: list[dict[str, Json]]) -> None:
    size = sum(canonical.size(change) for change in changes)
    if len(changes) > BATCH_EVENTS_MAX or size > ATOMIC_BYTES_MAX - EVENT_BYTES_MAX:
        rule = (
            "a state is written in one piece, and an array over one part grows by an operation an element: "
            "this one has too many small elements"
        )
        raise Refused("state_too_large", rule, field="body", shape=f"{len(changes)} events of {size} bytes")
