"""Write one event: draft it by the fold's own rules, append it exactly once, and only while its condition holds.

Used by the routes that write. An event whose acknowledgement was lost is looked for among what was folded (design.md,
"The stream"). Strict writes (`If-Match`, `If-None-Match: *`) are decided by the log's own check of the document's last
sequence (design.md, "Strict writes").
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from refold.core import json_text
from refold.core.envelope import Envelope, content_of, envelope_of, open_envelope
from refold.core.errors import DocumentAbsent, LogUnavailable, Refused, StoreError, TimedOut
from refold.core.event import check_event, decode
from refold.core.fold import EVENT_BYTES_MAX, NEWEST
from refold.core.json_text import Json
from refold.core.stream import Record, author_headers, check_name, check_namespace
from refold.gateway.consistency import BareHead
from refold.gateway.context import Context
from refold.gateway.limits import APPEND_ATTEMPTS_MAX, LOST_ATTEMPTS_MAX, RECOVER_SECONDS
from refold.gateway.requests import Condition, deadline_in
from refold.gateway.responses import RETRY, Problem
from refold.log import Acknowledgement, Appended, Publication, Stale, validated_headers
from refold.store import Key
from refold.store.ports import SnapshotStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event that may be published: it carries an id, its author's (`has_own_id`) or one made for it."""

    namespace: str
    document: str
    fields: dict[str, Json]
    headers: tuple[tuple[str, str], ...] = ()
    has_own_id: bool = False

    @property
    def key(self) -> Key:
        """Return the event's document."""
        return self.namespace, self.document

    @property
    def id(self) -> str:
        """Return the event's id."""
        return str(self.fields["id"])

    def publication(self) -> Publication:
        """Return what the log takes. Raises `Refused`, as the fold would reject it."""
        return Publication(
            namespace=self.namespace,
            document=self.document,
            body=checked_body(self.fields),
            headers=self.headers,
        )

    def strict_publication(self, version: int, last_sequence: int) -> Publication:
        """Return what the log takes only while the document's last event is this one."""
        return Publication(
            namespace=self.namespace,
            document=self.document,
            body=checked_body(self.fields | _strictly(version)),
            headers=self.headers,
            expected_last_sequence=last_sequence,
        )

    def is_content_of(self, headers: bytes, body: bytes) -> bool:
        """Tell whether a recorded event is this very one, published before (strictly or not)."""
        try:
            known = open_envelope(author_headers(headers), body, NEWEST.limits)
        except Refused:
            return False
        ours = self.fields
        if known.fields.get("on_conflict") == "reject" and "base" in known.fields:
            ours = ours | _strictly(known.fields["base"])
        return content_of(known) == content_of(Envelope(ours, self.id))


def draft(
    namespace: str,
    document: str,
    fields: dict[str, Json],
    *,
    made_id: str,
    headers: tuple[tuple[str, str], ...] = (),
) -> Draft:
    """Make a draft. Raises `Refused` for names that an author may not write to."""
    check_namespace(namespace)
    check_name(document, "document")
    has_own_id = "id" in fields
    with_id = fields if has_own_id else {**fields, "id": made_id}
    return Draft(
        namespace=namespace, document=document, fields=with_id, headers=headers, has_own_id=has_own_id
    )


def checked_body(fields: dict[str, Json]) -> bytes:
    """Return an event's body in canonical bytes. Raises `Refused` where the fold would reject it unseen."""
    body = json_text.dumps(fields)
    decode(b"", body, NEWEST.limits, NEWEST.operations)
    return body


def checked_line(fields: dict[str, Json]) -> bytes:
    """Do the same for an event that was read whole, not put together here: it is no deeper than what was read."""
    body = json_text.dumps(fields)
    # What is too large is refused by who opens it.
    limits = NEWEST.limits
    is_small = len(body) <= EVENT_BYTES_MAX
    envelope = envelope_of(fields, limits) if is_small else open_envelope(b"", body, limits)
    check_event(envelope, limits, NEWEST.operations)
    return body


def event_id_of(record: Record) -> str | None:
    """Return the id that a recorded event carries."""
    try:
        return open_envelope(author_headers(record.headers), record.body, NEWEST.limits).id
    except Refused:
        return None


def _strictly(version: Any) -> dict[str, Json]:
    return {"base": version, "on_conflict": "reject"}


class Written(NamedTuple):
    """An event in the log; its outcome where that is known already.

    `is_repeat`: an earlier request of its author put it there, so that this one is its duplicate.
    """

    sequence: int
    outcome: dict[str, Json] | None = None
    is_repeat: bool = False


async def append_surely(context: Context, draft: Draft, publication: Publication) -> Written:
    """Append a draft's event, which expects nothing of its document."""
    folded_sequence = context.consistency.sequence
    for _ in range(LOST_ATTEMPTS_MAX):
        acknowledgement = await append(context, publication)
        if isinstance(acknowledgement, Appended):
            return Written(acknowledgement.sequence)
        sequence = await recover(context, [publication], folded_sequence, event_id=draft.id)
        if sequence is not None:
            return Written(sequence)
    raise never_acknowledged()


async def append(context: Context, publication: Publication) -> Acknowledgement:
    """Append once, timed."""
    started = context.timer()
    acknowledgement = await context.log.append(publication)
    context.metrics.append_seconds.observe(context.timer() - started)
    return acknowledgement


async def repeated(context: Context, draft: Draft) -> Written | None:
    """Find the event that its author sends again under his own id; None where there is none of this content."""
    entry = await context.store.find_id(*draft.key, draft.id) if draft.has_own_id else None
    if entry is None or not draft.is_content_of(entry.headers, entry.body):
        return None
    outcome = await context.history.outcome(*draft.key, entry.sequence)
    return Written(entry.sequence, outcome, is_repeat=True)


def as_duplicate(outcome: dict[str, Json]) -> dict[str, Json]:
    """Show an event's outcome to who sent it again, as the fold shows a duplicate's."""
    if outcome["status"] == "duplicate":
        return outcome
    shown = ("status", "version", "sequence", "recorded_at", "created", "reason")
    first = {name: outcome[name] for name in shown if name in outcome}
    left = {name: value for name, value in outcome.items() if name not in _OF_THE_FIRST}
    return {**left, "status": "duplicate", "first": first}


def never_acknowledged() -> LogUnavailable:
    """Return the error for an event that was sent repeatedly without success."""
    return LogUnavailable(f"the log acknowledged none of {LOST_ATTEMPTS_MAX} attempts")


_OF_THE_FIRST = frozenset({"occurred_at", "reason", "detail"})


async def append_strictly(context: Context, draft: Draft, condition: Condition, deadline: float) -> Written:
    """Append only while the condition holds; else raise the 412 that says at which version the document is.

    What its author sends again under his own id is no new write: it is answered by what became of the first.
    """
    return await _StrictWrite(context, draft, condition, deadline).append()


async def refuse_absent(context: Context, draft: Draft, deadline: float) -> Written | None:
    """Refuse to delete what is absent; return a repeated delete's event; None: publish it."""
    if not (await _head(context, draft)).is_absent:
        return None
    # The row may be behind the log; where that cannot be known, the fold decides.
    if not await context.consistency.catch_up(deadline, draft.key):
        return None
    if not (await _head(context, draft)).is_absent:
        return None
    return await repeated(context, draft) or _refuse_absence()


class _StrictWrite:
    """One strict write. `_lost`: what was sent and neither acknowledged nor found, but may be stored late."""

    def __init__(self, context: Context, draft: Draft, condition: Condition, deadline: float) -> None:
        self._context = context
        self._draft = draft
        self._condition = condition
        self._deadline = deadline
        self._folded_sequence = context.consistency.sequence
        self._lost: list[Publication] = []

    async def append(self) -> Written:
        seen = self._seen()
        for _ in range(APPEND_ATTEMPTS_MAX):
            settled = seen or await self._settle()
            seen = None
            if isinstance(settled, Written):
                return settled
            publication = self._draft.strict_publication(settled.version, settled.last_sequence)
            acknowledgement = await append(self._context, publication)
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
        head = self._context.head_cache.get(draft.key)
        if head is None or condition.may_hold_again or (head.is_absent and "delete" in draft.fields):
            return None
        return head if condition.holds(head.version, is_absent=head.is_absent) else None

    async def _settle(self) -> Written | BareHead:
        """Return the head at which the condition holds, by the document's row; or what is written already."""
        condition = self._condition
        head = await _head(self._context, self._draft)
        version, _, is_absent = head
        if not condition.holds(version, is_absent=is_absent) and not condition.is_past(version):
            # The row may be behind the log: what is there now decides.
            if not await self._context.consistency.catch_up(self._deadline, self._draft.key):
                raise TimedOut("the projection has not caught up with the log in time; nothing was published")
            head = await _head(self._context, self._draft)
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
                self._context, [publication], self._folded_sequence, event_id=self._draft.id
            )
            if sequence is not None:
                return Written(sequence)
        return await repeated(self._context, self._draft)

    async def _overtaken(self) -> Written | None:
        """After a stale append: our own event, if it is the last; else wait for what came."""
        draft = self._draft
        self._context.head_cache.forget(draft.key)
        last = await self._context.log.last_of(*draft.key)
        if last is None:
            return None
        if event_id_of(last) == draft.id and draft.is_content_of(last.headers, last.body):
            return Written(last.sequence, is_repeat=not self._lost)
        if not await self._context.consistency.reach(last.sequence, self._deadline, draft.key):
            raise TimedOut("another write to the document was not folded in time; nothing was published")
        return None

    async def _recovered(self, publication: Publication) -> Written | None:
        sequence = await recover(self._context, [publication], self._folded_sequence, event_id=self._draft.id)
        if sequence is not None:
            return Written(sequence)
        self._lost.append(publication)
        if len(self._lost) == LOST_ATTEMPTS_MAX:
            raise never_acknowledged()
        return None


async def _head(context: Context, draft: Draft) -> BareHead:
    row = await context.store.head(*draft.key)
    return context.head_cache.put_row(draft.key, row)


def _refuse_absence() -> NoReturn:
    raise DocumentAbsent("the document is absent; nothing was published")


def refuse_condition(version: int, *, is_absent: bool) -> NoReturn:
    """Raise the 412 that says at which version the document is."""
    state = ", absent" if is_absent else ""
    detail = f"the document is at version {version}{state}; nothing was published"
    raise Problem(412, "precondition_failed", detail, version=version, absent=is_absent)


# --- After a lost acknowledgement ----------------------------------------------------------------------


async def recover(
    context: Context, publications: Sequence[Publication], after_sequence: int, *, event_id: str = ""
) -> int | None:
    """Return the first sequence of what went together unacknowledged; None where the log has it not.

    `after_sequence`: folded before it was sent, so that an event of an earlier request is never taken for ours.
    It is recognised by its bytes, not by its id: the id may have been used before, or have left the id window since.
    """
    last = publications[-1]
    key = (last.namespace, last.document)
    if not await context.consistency.catch_up(deadline_in(RECOVER_SECONDS), key):
        raise _in_doubt(event_id)
    try:
        return await _first_sequence(context.store, publications, after_sequence)
    except StoreError as error:
        raise _in_doubt(event_id) from error


async def _first_sequence(
    store: SnapshotStore, publications: Sequence[Publication], after_sequence: int
) -> int | None:
    """Look for the last of them; a batch is there when its first stands as far before it as it must."""
    before = len(publications) - 1
    async with aclosing(_sequences_of(store, publications[-1], after_sequence)) as found:
        async for sequence in found:
            if not before or await _is_at(store, publications[0], sequence - before):
                return sequence - before
    return None


async def _sequences_of(
    store: SnapshotStore, publication: Publication, after_sequence: int
) -> AsyncGenerator[int, None]:
    """Yield where a document has events of these very bytes, newest first."""
    content = validated_headers(publication), publication.body
    names = publication.namespace, publication.document
    async with aclosing(store.segments(*names, after_version=None, is_descending=True)) as runs:
        async for run in runs:
            for entry in reversed(run.entries):
                if entry.sequence > after_sequence and (entry.headers, entry.body) == content:
                    yield entry.sequence
            if run.base_sequence <= after_sequence:
                return


async def _is_at(store: SnapshotStore, publication: Publication, sequence: int) -> bool:
    entry = await store.entry(publication.namespace, publication.document, sequence)
    return entry is not None and (entry.headers, entry.body) == (
        validated_headers(publication),
        publication.body,
    )


def _in_doubt(event_id: str) -> Problem:
    detail = (
        "no acknowledgement came, so the log may have what was sent or not: send it again under the same id, "
        "or ask for the id's outcome"
    )
    problem = Problem(504, "acknowledgement_lost", detail)
    if event_id:
        problem.facts["id"] = event_id
    return problem
