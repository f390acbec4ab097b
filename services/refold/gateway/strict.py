"""Strict writes: `If-Match` and `If-None-Match: *`, decided by the log's own check of the last sequence.

Used by the routes that write; design.md, "Strict writes", is the recipe, step by step.
"""

from __future__ import annotations

from typing import Final, NoReturn

from refold.core.errors import DocumentAbsent, TimedOut
from refold.core.limits import APPEND_ATTEMPTS_MAX
from refold.gateway.conditions import Condition
from refold.gateway.draft import Draft, event_id_of
from refold.gateway.parts import Parts
from refold.gateway.problems import RETRY, Problem
from refold.gateway.submit import Written, append, catch_up, recover, repeated
from refold.log import Appended, Stale
from refold.store import Head


async def append_strictly(parts: Parts, draft: Draft, condition: Condition, deadline: float) -> Written:
    """Append only while the condition holds; else raise the 412 that says at which version the document is."""
    for _ in range(APPEND_ATTEMPTS_MAX):
        settled = await _settle(parts, draft, condition, deadline)
        if isinstance(settled, Written):
            return settled
        version, last_sequence = settled
        acknowledgement = await append(parts, draft.strict_publication(version, last_sequence))
        if isinstance(acknowledgement, Appended):
            return Written(acknowledgement.sequence)
        if isinstance(acknowledgement, Stale):
            own_sequence = await _overtaken(parts, draft, deadline)
            if own_sequence is not None:
                return Written(own_sequence)
            continue
        outcome = await recover(parts, draft)
        if outcome is not None:
            return Written(outcome["sequence"], outcome)
    detail = f"others wrote to the document each of {APPEND_ATTEMPTS_MAX} times; nothing was published"
    raise Problem(503, "contended", detail, headers=RETRY)


async def refuse_absent(parts: Parts, draft: Draft, deadline: float) -> Written | None:
    """Refuse to delete what is absent; return a repeated delete's outcome; None: publish it."""
    if _is_present(await _head(parts, draft)):
        return None
    if not await catch_up(parts, deadline):
        # Whether the row is current cannot be known in time: the fold decides.
        return None
    if _is_present(await _head(parts, draft)):
        return None
    return await _written_before(parts, draft) or _refuse_absence()


async def _settle(
    parts: Parts, draft: Draft, condition: Condition, deadline: float
) -> Written | tuple[int, int]:
    """Return version and last sequence at which the condition holds by the row."""
    head = await _head(parts, draft)
    version, last_sequence, is_absent = _facts(head)
    if not condition.holds(version, is_absent=is_absent) and not condition.is_past(version):
        # The row may be behind the log: what is there now decides.
        if not await catch_up(parts, deadline):
            raise TimedOut("the projection has not caught up with the log in time; nothing was published")
        version, last_sequence, is_absent = _facts(await _head(parts, draft))
    if condition.holds(version, is_absent=is_absent):
        if is_absent and "delete" in draft.fields:
            return await _written_before(parts, draft) or _refuse_absence()
        return version, last_sequence
    return await _written_before(parts, draft) or _refuse_condition(version, is_absent=is_absent)


async def _overtaken(parts: Parts, draft: Draft, deadline: float) -> int | None:
    """After a stale append: return our own event's sequence if it is the last, else wait for what came."""
    last = await parts.log.last_of(draft.namespace, draft.document)
    if last is None:
        return None
    if event_id_of(last) == draft.id:
        return last.sequence
    if not await parts.progress.reach(last.sequence, deadline):
        raise TimedOut("another write to the document was not folded in time; nothing was published")
    return None


async def _written_before(parts: Parts, draft: Draft) -> Written | None:
    outcome = await repeated(parts, draft)
    return None if outcome is None else Written(outcome["sequence"], outcome)


async def _head(parts: Parts, draft: Draft) -> Head | None:
    return await parts.store.head(draft.namespace, draft.document)


def _facts(head: Head | None) -> tuple[int, int, bool]:
    if head is None:
        return _NEVER
    return head.snapshot.version, head.last_sequence, head.snapshot.state is None


def _is_present(head: Head | None) -> bool:
    return head is not None and head.snapshot.state is not None


def _refuse_absence() -> NoReturn:
    raise DocumentAbsent("the document is absent; nothing was published")


def _refuse_condition(version: int, *, is_absent: bool) -> NoReturn:
    state = ", absent" if is_absent else ""
    detail = f"the document is at version {version}{state}; nothing was published"
    raise Problem(412, "precondition_failed", detail, version=version, absent=is_absent)


_NEVER: Final = (0, 0, True)
