"""Strict writes: `If-Match` and `If-None-Match: *`, decided by the log's own check of the last sequence.

Used by the routes that write; design.md, "Strict writes", is the recipe, step by step.
"""

from __future__ import annotations

from typing import NoReturn

from refold.core.errors import DocumentAbsent, TimedOut
from refold.core.limits import APPEND_ATTEMPTS_MAX, LOST_ATTEMPTS_MAX
from refold.gateway.conditions import Condition
from refold.gateway.draft import Draft, event_id_of
from refold.gateway.parts import Parts
from refold.gateway.problems import RETRY, Problem
from refold.gateway.recovery import catch_up, recover
from refold.gateway.seen import BareHead
from refold.gateway.submit import Written, append, never_acknowledged, repeated
from refold.log import Appended, Publication, Stale


async def append_strictly(parts: Parts, draft: Draft, condition: Condition, deadline: float) -> Written:
    """Append only while the condition holds; else raise the 412 that says at which version the document is.

    What its author sends again under his own id is no new write: it is answered by what became of the first.
    """
    return await _StrictWrite(parts, draft, condition, deadline).append()


async def refuse_absent(parts: Parts, draft: Draft, deadline: float) -> Written | None:
    """Refuse to delete what is absent; return a repeated delete's event; None: publish it."""
    if not (await _head(parts, draft)).is_absent:
        return None
    # The row may be behind the log; where that cannot be known, the fold decides.
    if not await catch_up(parts, deadline):
        return None
    if not (await _head(parts, draft)).is_absent:
        return None
    return await repeated(parts, draft) or _refuse_absence()


class _StrictWrite:
    """One strict write. `_lost`: what was sent and neither acknowledged nor found, but may be stored late."""

    def __init__(self, parts: Parts, draft: Draft, condition: Condition, deadline: float) -> None:
        self._parts = parts
        self._draft = draft
        self._condition = condition
        self._deadline = deadline
        self._folded_sequence = parts.progress.sequence
        self._lost: list[Publication] = []

    async def append(self) -> Written:
        seen = self._seen()
        for _ in range(APPEND_ATTEMPTS_MAX):
            settled = seen or await self._settle()
            seen = None
            if isinstance(settled, Written):
                return settled
            publication = self._draft.strict_publication(settled.version, settled.last_sequence)
            acknowledgement = await append(self._parts, publication)
            if isinstance(acknowledgement, Appended):
                return Written(acknowledgement.sequence)
            is_stale = isinstance(acknowledgement, Stale)
            written = await (self._overtaken() if is_stale else self._recovered(publication))
            if written is not None:
                return written
        detail = f"others wrote to the document each of {APPEND_ATTEMPTS_MAX} times; nothing was published"
        raise Problem(503, "contended", detail, headers=RETRY)

    def _seen(self) -> BareHead | None:
        """Return the head that was seen, where the condition holds there and tells this write from its retry."""
        condition, draft = self._condition, self._draft
        head = self._parts.seen.head(draft.namespace, draft.document)
        if head is None or condition.may_hold_again or (head.is_absent and "delete" in draft.fields):
            return None
        return head if condition.holds(head.version, is_absent=head.is_absent) else None

    async def _settle(self) -> Written | BareHead:
        """Return the head at which the condition holds, by the document's row; or what is written already."""
        condition = self._condition
        head = await _head(self._parts, self._draft)
        version, _, is_absent = head
        if not condition.holds(version, is_absent=is_absent) and not condition.is_past(version):
            # The row may be behind the log: what is there now decides.
            if not await catch_up(self._parts, self._deadline):
                raise TimedOut("the projection has not caught up with the log in time; nothing was published")
            head = await _head(self._parts, self._draft)
            version, _, is_absent = head
        is_open = condition.holds(version, is_absent=is_absent)
        is_vain = is_absent and "delete" in self._draft.fields
        if is_open and not is_vain and not condition.may_hold_again:
            return head
        # Looked for after the row was read: what is folded in between makes the append stale.
        written = await self._written_before()
        if written is not None:
            return written
        if not is_open:
            refuse_condition(version, is_absent=is_absent)
        return _refuse_absence() if is_vain else head

    async def _written_before(self) -> Written | None:
        for publication in self._lost:
            sequence = await recover(
                self._parts, [publication], self._folded_sequence, event_id=self._draft.id
            )
            if sequence is not None:
                return Written(sequence)
        return await repeated(self._parts, self._draft)

    async def _overtaken(self) -> Written | None:
        """After a stale append: our own event, if it is the last; else wait for what came."""
        draft = self._draft
        self._parts.seen.forget(draft.namespace, draft.document)
        last = await self._parts.log.last_of(draft.namespace, draft.document)
        if last is None:
            return None
        if event_id_of(last) == draft.id and draft.is_content_of(last.headers, last.body):
            return Written(last.sequence, is_repeat=not self._lost)
        if not await self._parts.progress.reach(last.sequence, self._deadline):
            raise TimedOut("another write to the document was not folded in time; nothing was published")
        return None

    async def _recovered(self, publication: Publication) -> Written | None:
        sequence = await recover(self._parts, [publication], self._folded_sequence, event_id=self._draft.id)
        if sequence is not None:
            return Written(sequence)
        self._lost.append(publication)
        if len(self._lost) == LOST_ATTEMPTS_MAX:
            raise never_acknowledged()
        return None


async def _head(parts: Parts, draft: Draft) -> BareHead:
    row = await parts.store.head(draft.namespace, draft.document)
    return parts.seen.note_row(draft.namespace, draft.document, row)


def _refuse_absence() -> NoReturn:
    raise DocumentAbsent("the document is absent; nothing was published")


def refuse_condition(version: int, *, is_absent: bool) -> NoReturn:
    """Raise the 412 that says at which version the document is."""
    state = ", absent" if is_absent else ""
    detail = f"the document is at version {version}{state}; nothing was published"
    raise Problem(412, "precondition_failed", detail, version=version, absent=is_absent)
