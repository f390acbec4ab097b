"""Write one event, or a large state as several: append it exactly once, and strictly.

Used by the routes that write. An event whose acknowledgement was lost is looked for among what was folded (design.md,
"The stream"). Strict writes (`If-Match`, `If-None-Match: *`) are decided by the log's own check of the document's last
sequence (design.md, "Strict writes").
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Final, NamedTuple, NoReturn

from refold.core.document import Status
from refold.core.errors import DocumentAbsent, LogError, LogUnavailable, RefoldError, StoreError, TimedOut
from refold.gateway.conditions import ANYTHING, Condition
from refold.gateway.consistency import BareHead
from refold.gateway.context import Context
from refold.gateway.drafts import Draft, View, is_entry_of, is_same_part
from refold.gateway.inflight import deadline_in, waiting
from refold.gateway.requests import Wait
from refold.gateway.responses import Problem, contended
from refold.gateway.tracing import TRACE, exemplar_in
from refold.log import Acknowledgement, Appended, Publication, Stale
from refold.store import ANY_VERSION, Key
from refold.store.ports import Reader
from refold.telemetry.slow import report_append

APPEND_ATTEMPTS_MAX: Final = 8
"""Attempts of a strict write that other writes overtake."""

LOST_ATTEMPTS_MAX: Final = 3
"""Attempts to send an event whose acknowledgement is lost each time."""

RECOVER_SECONDS: Final = 10.0
"""After a lost acknowledgement, the projection must catch up with the log within this; else the outcome is unknown."""

DECIDE_SECONDS: Final = 5.0
"""How long a write that does not wait for its outcome (`Refold-Wait: 0`) may wait for what decides it."""


def write_deadline(wait: Wait) -> float:
    """Return until when a write may wait for what decides it: as long as for its outcome, where it waits for that."""
    return deadline_in(wait.seconds or DECIDE_SECONDS)


# --- Write and wait for the outcome ------------------------------------------------------------------------

_EFFECTIVE: Final = tuple(status.name for status in Status if status.is_effective)


async def write(
    context: Context, draft: Draft, condition: Condition, wait: Wait, state: bytes | None = None
) -> Written:
    """Publish a draft and wait for its outcome, which is None where it is not known in time.

    `state`: the canonical bytes that a PUT writes, kept for reads until the projection has them.
    """
    # Refused before it is published, never after: if too many wait, this write is not started.
    async with waiting():
        deadline = deadline_in(wait.seconds)
        written = await _publish(context, draft, condition, write_deadline(wait))
        outcome = written.outcome
        if outcome is None and wait.seconds > 0:
            outcome = await _outcome(context, draft, written.sequence, deadline)
        if wait.is_for_commit and not await context.consistency.reach(written.sequence, deadline, draft.key):
            outcome = None
    if outcome is None:
        context.head_cache.pop(draft.key, None)
    else:
        _cache_head(context, draft, outcome, state)
    return written._replace(outcome=outcome)


async def _publish(context: Context, draft: Draft, condition: Condition, deadline: float) -> Written:
    is_strict, is_delete = condition is not ANYTHING or draft.split is not None, "delete" in draft.fields
    if is_strict or is_delete:
        # Decided by the document's row, and an error shows the row.
        await context.readiness.wait(deadline)
    if is_strict:
        return await StrictWrite(context, draft, condition, deadline).append()
    if is_delete:
        known = await _refuse_absent_delete(context, draft, deadline)
        if known is not None:
            return known
    return Written(await append_surely(context, draft.publications(), event_id=draft.id))


async def _outcome(context: Context, draft: Draft, sequence: int, deadline: float) -> View | None:
    """Wait for the last event's outcome; of several events, the first says whether the document was created."""
    outcome = await context.outcomes.wait(*draft.key, sequence, deadline)
    if outcome is None or draft.split is None:
        return outcome
    first = await context.outcomes.wait(*draft.key, sequence - draft.events_count + 1, deadline)
    return _as_whole(outcome, first)


def _cache_head(context: Context, draft: Draft, outcome: View, state: bytes | None) -> None:
    """Remember the new head; an ineffective event's outcome does not say whether the document is absent."""
    if outcome["status"] in _EFFECTIVE:
        if outcome["status"] == "applied" and draft.split is None:
            context.known_states.note(draft.key, outcome, draft.fields, state)
        head = BareHead(outcome["version"], outcome["sequence"], "delete" in draft.fields)
        context.head_cache.put(draft.key, head)
    else:
        context.head_cache.pop(draft.key, None)


async def wait_until_folded(context: Context, key: Key, version: int, deadline: float) -> None:
    """Wait for what this gateway has received about the document and, for a later version, for all of the log."""
    await context.readiness.wait(deadline)
    await context.consistency.wait_for_announced(deadline, *key)
    if await head_version(context, key) < version and not await context.consistency.catch_up(deadline, key):
        raise TimedOut("the projection has not caught up with the log in time; nothing was published")


async def head_version(context: Context, key: Key) -> int:
    head = await context.store.head(*key, known_version=ANY_VERSION)
    return 0 if head is None else head.snapshot.version


# --- Append exactly once ---------------------------------------------------------------------------------


class Written(NamedTuple):
    """An event in the log (the last, of several); its outcome where that is known already.

    `is_repeat`: an earlier request of its author put it there, so that this one is its duplicate.
    """

    sequence: int
    outcome: View | None = None
    is_repeat: bool = False


async def append_surely(context: Context, publications: list[Publication], *, event_id: str = "") -> int:
    """Append events that expect nothing of their documents, all or none; return the first's sequence."""
    known_sequence = context.consistency.known_sequence
    for _ in range(LOST_ATTEMPTS_MAX):
        answer = await append_once(context, publications)
        if isinstance(answer, Appended):
            return answer.sequence
        assert not isinstance(answer, Stale)
        first_sequence = await recover(context, publications, known_sequence, event_id=event_id)
        if first_sequence is not None:
            return first_sequence
    raise never_acknowledged()


async def append_once(context: Context, publications: list[Publication]) -> Acknowledgement:
    """Append all or none once, timed; return the answer to the first."""
    started, trace = context.timer(), TRACE.get()
    if trace is not None:
        trace.begin_send()
    if len(publications) == 1:
        answer = await context.log.append(publications[0])
    else:
        answers = await context.log.append_atomically(publications)
        answer = answers[0] if isinstance(answers, list) else answers
    seconds, first = context.timer() - started, publications[0]
    sequence = answer.sequence if isinstance(answer, Appended) else None
    context.metrics.append_seconds.observe(seconds, exemplar_in(trace))
    report_append(seconds, sequence, len(publications), first.namespace, first.document)
    if trace is not None and sequence is not None:
        trace.end_send(sequence, len(publications))
    return answer


def never_acknowledged() -> LogUnavailable:
    return LogUnavailable(f"the log acknowledged none of {LOST_ATTEMPTS_MAX} attempts")


# --- Writes that depend on the document --------------------------------------------------------------------


async def _refuse_absent_delete(context: Context, draft: Draft, deadline: float) -> Written | None:
    """Refuse to delete what is absent; return a repeated delete's event; None: publish it."""
    if not context.consistency.awaited_sequence(draft.key) and not (await _head(context, draft)).is_absent:
        return None
    # The row may be behind the log; where that cannot be known, the fold decides.
    if not await context.consistency.catch_up(deadline, draft.key):
        return None
    head = await _head(context, draft)
    if not head.is_absent:
        return None
    return await _repeated(context, draft) or _refuse_absence(draft, head)


class StrictWrite:
    """One write that is appended only while its condition holds.

    An event that is sent again under its author's id is no new write: its answer is the first one's outcome.
    `_lost`: what was sent and neither acknowledged nor found, but may be stored late.
    """

    def __init__(self, context: Context, draft: Draft, condition: Condition, deadline: float) -> None:
        self._context = context
        self._draft = draft
        self._condition = condition
        self._deadline = deadline
        self._known_sequence = context.consistency.known_sequence
        self._lost: list[list[Publication]] = []
        # Else the condition does not tell this write from its retry; of several events, only the last has the id.
        self._looks_for_repeat = condition.may_hold_again or draft.split is not None

    async def append(self) -> Written:
        """Append; where the condition does not hold, raise the 412 that says at which version the document is."""
        strict = self._context.metrics.strict
        try:
            written = await self._append()
        except (Problem, RefoldError) as error:
            strict.labels(error.code).inc()
            raise
        strict.labels("repeated" if written.is_repeat else "written").inc()
        return written

    async def _append(self) -> Written:
        head = self._cached_head()
        for _ in range(APPEND_ATTEMPTS_MAX):
            decided = head or await self._decide()
            head = None
            if isinstance(decided, Written):
                return decided
            publications = self._draft.publications(decided)
            answer = await append_once(self._context, publications)
            if isinstance(answer, Appended):
                return Written(answer.sequence + len(publications) - 1)
            recovery = self._overtaken() if isinstance(answer, Stale) else self._recovered(publications)
            written = await recovery
            if written is not None:
                return written
        raise contended("document", APPEND_ATTEMPTS_MAX)

    def _cached_head(self) -> BareHead | None:
        """Return the head that was last seen, where the condition holds there and no repeat is looked for."""
        head = self._context.head_cache.get(self._draft.key)
        if head is None or self._looks_for_repeat or (head.is_absent and "delete" in self._draft.fields):
            return None
        return head if self._condition.holds(head) else None

    async def _decide(self) -> Written | BareHead:
        """Return the head at which the condition holds, by the document's row; or what is written already."""
        condition = self._condition
        # A 412 shows the row, which must not be behind what was received.
        await self._context.consistency.wait_for_announced(self._deadline, *self._draft.key)
        head = await _head(self._context, self._draft)
        is_open = condition.holds(head)
        if not is_open and not condition.is_past(head):
            # The row may be behind the log: what is there now decides.
            if not await self._context.consistency.catch_up(self._deadline, self._draft.key):
                raise TimedOut("the projection has not caught up with the log in time; nothing was published")
            head = await _head(self._context, self._draft)
            is_open = condition.holds(head)
        is_absent_delete = head.is_absent and "delete" in self._draft.fields
        if is_open and not is_absent_delete and not self._looks_for_repeat:
            return head
        # Looked for after the row was read: what is folded in between makes the append stale.
        written = await self._written_before()
        if written is not None:
            return written
        if not is_open:
            _refuse_condition(head)
        return _refuse_absence(self._draft, head) if is_absent_delete else head

    async def _written_before(self) -> Written | None:
        for publications in self._lost:
            written = await self._found(publications)
            if written is not None:
                return written
        return await _repeated(self._context, self._draft)

    async def _overtaken(self) -> Written | None:
        """After a stale append: our own event, if it is the last; else wait for what came."""
        draft = self._draft
        self._context.head_cache.pop(draft.key, None)
        last = await self._context.log.last_of(*draft.key)
        if last is None:
            return None
        if draft.is_published_as(last.headers, last.body):
            return Written(last.sequence, is_repeat=not self._lost)
        if not await self._context.consistency.reach(last.sequence, self._deadline, draft.key):
            raise TimedOut("another write to the document was not folded in time; nothing was published")
        return None

    async def _recovered(self, publications: list[Publication]) -> Written | None:
        written = await self._found(publications)
        if written is None:
            self._lost.append(publications)
            if len(self._lost) == LOST_ATTEMPTS_MAX:
                raise never_acknowledged()
        return written

    async def _found(self, publications: list[Publication]) -> Written | None:
        first_sequence = await recover(
            self._context, publications, self._known_sequence, event_id=self._draft.id
        )
        return None if first_sequence is None else Written(first_sequence + len(publications) - 1)


async def _head(context: Context, draft: Draft) -> BareHead:
    return context.head_cache.put_row(
        draft.key, await context.store.head(*draft.key, known_version=ANY_VERSION)
    )


def _refuse_absence(draft: Draft, head: BareHead) -> NoReturn:
    why = f"is absent: version {head.version} deleted it" if head.version else "never existed"
    raise DocumentAbsent(f"{'/'.join(draft.key)} {why}; nothing was published")


def _refuse_condition(head: BareHead) -> NoReturn:
    state = ", absent" if head.is_absent else ""
    detail = f"the document is at version {head.version}{state}; nothing was published"
    raise Problem(412, "precondition_failed", detail, version=head.version, absent=head.is_absent)


# --- After a lost response or acknowledgement ------------------------------------------------------------


async def _repeated(context: Context, draft: Draft) -> Written | None:
    """Find the event that is sent again under its author's id; None where there is none of this content."""
    store, key = context.store, draft.key
    last = await store.find_id(*key, draft.id) if draft.has_own_id else None
    if last is None:
        return None
    first_sequence = last.sequence - draft.events_count + 1
    if draft.split is None:
        if not draft.is_published_as(last.headers, last.body):
            return None
    else:
        for sequence, body in enumerate(draft.split.bodies(0), first_sequence):
            entry = await store.entry(*key, sequence)
            if entry is None or not is_same_part(entry.body, body):
                detail = (
                    f"the id was used for another event, at sequence {last.sequence}; nothing was published"
                )
                raise Problem(409, "rejected", detail, reason="id_reused")
    outcome = await context.history.outcome(*key, last.sequence)
    first = outcome if draft.split is None else await context.history.outcome(*key, first_sequence)
    return Written(last.sequence, outcome and _as_whole(outcome, first), is_repeat=True)


def _as_whole(last: View, first: View | None) -> View:
    """Show the last of several outcomes as the whole write's: the first event says whether it created the document."""
    if first is None or "created" not in last:
        return last
    return {**last, "created": first.get("created", False)}


async def recover(
    context: Context, publications: Sequence[Publication], after_sequence: int, *, event_id: str = ""
) -> int | None:
    """Return the first sequence of what was appended together, unacknowledged; None where the log does not have it.

    `after_sequence`: in the log before it was sent, so that an event of an earlier request is never taken for ours.
    It is recognised by its bytes, not by its id: the id may have been used before, or have left the id window since.
    """
    last = publications[-1]
    key = (last.namespace, last.document)
    if not await context.consistency.catch_up(deadline_in(RECOVER_SECONDS), key):
        raise _in_doubt(context, event_id)
    try:
        found = await _first_sequence(context.store, publications, after_sequence)
    except (LogError, StoreError) as error:
        raise _in_doubt(context, event_id) from error
    context.metrics.append_lost.labels("no" if found is None else "yes").inc()
    return found


async def _first_sequence(
    store: Reader, publications: Sequence[Publication], after_sequence: int
) -> int | None:
    """Look for the last of them, newest first; the first must be as far before it as it was sent."""
    first, last, before = publications[0], publications[-1], len(publications) - 1
    names = last.namespace, last.document
    async with aclosing(store.segments(*names, after_version=None, is_descending=True)) as segments:
        async for segment in segments:
            for entry in reversed(segment.entries):
                if entry.sequence > after_sequence and is_entry_of(entry, last):
                    sequence = entry.sequence - before
                    names = first.namespace, first.document
                    if not before or is_entry_of(await store.entry(*names, sequence), first):
                        return sequence
            if segment.base_sequence <= after_sequence:
                break
    return None


def _in_doubt(context: Context, event_id: str) -> Problem:
    context.metrics.append_lost.labels("unknown").inc()
    detail = (
        "no acknowledgement came, so the log may have what was sent or not: send it again under the same id, "
        "or ask for the id's outcome"
    )
    facts: View = {"id": event_id} if event_id else {}
    return Problem(504, "acknowledgement_lost", detail, **facts)
