"""The route of transactions: changes of several documents, all or none. Part of `refold.gateway.app`.

Each change names the version at which its document was read. The gateway folds it ahead by the rules of the fold, then
appends all as one atomic batch in which the broker compares every document's last sequence: so what was folded ahead is
what will be folded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from starlette.requests import Request

from refold.core import json_text
from refold.core.document import Document, Outcome, Status
from refold.core.envelope import content_of
from refold.core.errors import FenceLost, Refused, TimedOut
from refold.core.event import TRANSACTION_MEMBERS_MAX, VERSION_MAX
from refold.core.fold import ID_CHARS_MAX, NEWEST, fold, rules_of
from refold.core.fold.rules import Rules
from refold.core.history import Entry, fields_of
from refold.core.json_text import Json, shape_of
from refold.core.settings import SETTINGS_PREFIX, read_settings
from refold.core.stream import (
    FOLD_DOCUMENT,
    GENESIS_DOCUMENT,
    SYSTEM_NAMESPACE,
    Record,
    Route,
    check_document,
    check_namespace,
)
from refold.core.transactions import TRANSACTION_BYTES_MAX
from refold.gateway.consistency import BareHead
from refold.gateway.context import Context, context_of
from refold.gateway.drafts import View, body_of, check, strictly
from refold.gateway.inflight import deadline_in, waiting
from refold.gateway.requests import (
    carried_headers,
    check_media_type,
    event_fields,
    read_json,
    read_wait,
    refuse_query,
)
from refold.gateway.responses import JSON, Problem, Response, as_duplicate, contended, json_response
from refold.gateway.writes import (
    APPEND_ATTEMPTS_MAX,
    LOST_ATTEMPTS_MAX,
    append_once,
    never_acknowledged,
    recover,
    write_deadline,
)
from refold.log import Appended, Publication, Stale
from refold.store import Key

DOCUMENTS_AT_ONCE: Final = 16
"""Documents that are loaded and folded ahead together, as each may have a large state."""

_GIVEN: Final = frozenset({"id", "base", "on_conflict", "txn"})
_EFFECTIVE: Final = frozenset(status.name for status in Status if status.is_effective)
_SYSTEM: Final = (SYSTEM_NAMESPACE, GENESIS_DOCUMENT), (SYSTEM_NAMESPACE, FOLD_DOCUMENT)


class Change(NamedTuple):
    """A member: its document, the version at which that was read, and the event's fields."""

    key: Key
    version: int
    fields: View


class Asked(NamedTuple):
    """A transaction as it was sent; its id is the id of each of its events."""

    id: str
    namespace: str
    changes: list[Change]
    headers: tuple[tuple[str, str], ...]


class Checked(NamedTuple):
    """What members are folded ahead by: the rules in force, and the sequence of their settings (0: the defaults)."""

    rules: Rules
    settings_sequence: int


async def append_transaction(request: Request) -> Response:
    """Append changes of several documents, all or none, and answer the outcome of each."""
    context = context_of(request)
    wait = read_wait(request, context.wait_seconds)
    headers = carried_headers(request)
    if wait.seconds > 0:
        headers += (("Refold-Reply", context.reply_subject),)
    asked = await _read(request, context, headers)
    # Refused before it is published, never after: if too many wait, this write is not started.
    async with waiting():
        deadline = deadline_in(wait.seconds)
        decide_deadline = write_deadline(wait)
        await context.readiness.wait(decide_deadline)
        first_sequence, is_repeat = await _Writing(context, asked, decide_deadline).append()
        last_sequence = first_sequence + len(asked.changes) - 1
        outcomes = [] if wait.seconds == 0 else await _outcomes(context, asked, first_sequence, deadline)
        if wait.is_for_commit and not await context.consistency.reach(last_sequence, deadline):
            outcomes = []
    view = {"id": asked.id, "first_sequence": first_sequence, "last_sequence": last_sequence}
    _cache_heads(context, asked, outcomes)
    return _answer(view, [as_duplicate(outcome) for outcome in outcomes] if is_repeat else outcomes)


# --- What is asked for -----------------------------------------------------------------------------------


async def _read(request: Request, context: Context, headers: tuple[tuple[str, str], ...]) -> Asked:
    refuse_query(request)
    namespace = check_namespace(request.path_params["namespace"])
    given = event_fields(request)
    if given.keys() - {"id"}:
        name = min(given.keys() - {"id"})
        raise Refused("unknown_field", "each change has its fields in the body", field=name)
    check_media_type(request, (JSON,))
    # A change's event is two levels deeper than an event's own text.
    depth = NEWEST.limits.text_depth + 2
    body = await read_json(request, TRANSACTION_BYTES_MAX, "transaction_too_large", depth)
    if type(body) is not dict or not body.keys() <= {"id", "changes"}:
        raise Refused("bad_transaction", "an object of id and changes", field="body", shape=shape_of(body))
    transaction_id = body["id"] if "id" in body else given.get("id", context.new_id())
    if type(transaction_id) is not str or not 1 <= len(transaction_id) <= ID_CHARS_MAX:
        rule = f"a string of 1 to {ID_CHARS_MAX} characters"
        raise Refused("bad_transaction", rule, field="id", shape=shape_of(transaction_id))
    if given.get("id", transaction_id) != transaction_id:
        raise Refused("contradictory", "id and Idempotency-Key differ", field="id")
    listed = body.get("changes")
    if type(listed) is not list or not 1 <= len(listed) <= TRANSACTION_MEMBERS_MAX:
        rule = f"a list of 1 to {TRANSACTION_MEMBERS_MAX} changes"
        raise Refused("bad_transaction", rule, field="changes", shape=shape_of(listed))
    changes: dict[Key, Change] = {}
    for index, item in enumerate(listed):
        change = _change(namespace, transaction_id, index, item)
        if change.key in changes:
            rule = "a document has one change: put several into one patch"
            raise Refused("bad_transaction", rule, field=f"changes/{index}/doc", shape=repr(change.key[1]))
        changes[change.key] = change
        await asyncio.sleep(0)
    return Asked(transaction_id, namespace, list(changes.values()), headers)


def _change(namespace: str, transaction_id: str, index: int, item: Json) -> Change:
    """Read one change. Raises `Refused`, which names it."""
    try:
        if type(item) is not dict:
            raise Refused("bad_event", "a change is an object", field="", shape=shape_of(item))
        document, version = item.pop("doc", None), item.pop("version", None)
        if type(document) is not str:
            raise Refused("bad_name", "a change names its document", field="doc", shape=shape_of(document))
        check_document(document, "doc")
        if type(version) is not int or not 0 <= version <= VERSION_MAX:
            rule = "the version at which the document was read: an integer from 0"
            raise Refused("bad_field", rule, field="version", shape=shape_of(version))
        if not _GIVEN.isdisjoint(item):
            name = min(_GIVEN & item.keys())
            raise Refused("bad_field", "follows from the transaction", field=name, shape=shape_of(item[name]))
        fields = {**item, "id": transaction_id}
        check(fields)
    except Refused as refused:
        refused.field = f"changes/{index}/{refused.field}".rstrip("/")
        raise
    return Change((namespace, document), version, fields)


# --- Append it --------------------------------------------------------------------------------------------


class _Writing:
    """One transaction that is appended only while each document is at the version that its change names."""

    def __init__(self, context: Context, asked: Asked, deadline: float) -> None:
        self._context = context
        self._asked = asked
        self._deadline = deadline
        self._known_sequence = context.consistency.known_sequence
        # Sent, neither acknowledged nor found: they may be stored late.
        self._lost_count = 0

    async def append(self) -> tuple[int, bool]:
        """Return the first member's sequence, and whether an earlier request has appended it."""
        for _ in range(APPEND_ATTEMPTS_MAX):
            publications = await self._publications()
            if isinstance(publications, int):
                return publications, not self._lost_count
            answer = await append_once(self._context, publications)
            if isinstance(answer, Appended):
                return answer.sequence, False
            if isinstance(answer, Stale):
                # Which of the documents has a later event, the projection knows once it has read the log's end.
                await self._catch_up()
                continue
            first_sequence = await recover(
                self._context, publications, self._known_sequence, event_id=self._asked.id
            )
            if first_sequence is not None:
                return first_sequence, False
            self._lost_count += 1
            if self._lost_count == LOST_ATTEMPTS_MAX:
                raise never_acknowledged()
        raise contended("documents", APPEND_ATTEMPTS_MAX)

    async def _publications(self) -> list[Publication] | int:
        """Return what to append, each member folded ahead; or where an earlier request has put the first of them."""
        asked = self._asked
        for change in asked.changes:
            # The rows are not behind what was received about them.
            await self._context.consistency.wait_for_announced(self._deadline, *change.key)
        checked = await self._checked()
        time = 0
        if any("occurred_at" in change.fields for change in asked.changes):
            # No event is recorded before this.
            time = (await self._context.log.info()).time
        publications: list[Publication] = []
        bytes_count = 0
        async for index, document in self._documents():
            change = asked.changes[index]
            if document.version != change.version:
                return await self._repeated(index, document)
            publication = self._publication(index, document, checked.settings_sequence)
            bytes_count += len(publication.body)
            if bytes_count > TRANSACTION_BYTES_MAX:
                rule, shape = (
                    f"at most {TRANSACTION_BYTES_MAX} bytes of events",
                    f"more than {bytes_count - 1} bytes",
                )
                raise Refused("transaction_too_large", rule, field="changes", shape=shape)
            _check_ahead(index, document, publication, checked.rules, max(time, document.last_recorded_at))
            publications.append(publication)
        return publications

    def _publication(self, index: int, document: Document, settings_sequence: int) -> Publication:
        asked, change = self._asked, self._asked.changes[index]
        fields = change.fields | strictly(change.version)
        # A single event needs no others, and the log does not store it as a batch.
        if len(asked.changes) > 1:
            fields["txn"] = {
                "id": asked.id,
                "index": index,
                "count": len(asked.changes),
                "settings": settings_sequence,
            }
        return Publication(
            namespace=change.key[0],
            document=change.key[1],
            body=body_of(fields),
            headers=asked.headers,
            expected_last_sequence=document.last_sequence,
        )

    async def _checked(self) -> Checked:
        """Read the rules that are in force for the namespace. Raises `Refused` where they have no transactions."""
        settings_key = SYSTEM_NAMESPACE, f"{SETTINGS_PREFIX}{self._asked.namespace}"
        await self._context.consistency.wait_for_announced(self._deadline, *settings_key)
        genesis, number, settings = await self._load([*_SYSTEM, settings_key])
        if not genesis.version:
            # Nothing is folded yet.
            await self._catch_up()
            genesis, number, settings = await self._load([*_SYSTEM, settings_key])
        rules = rules_of((number if number.version else genesis).state["fold"])
        if "txn" not in rules.fields:
            rule = f"the log is under fold {rules.number}, which has no transactions: `refold fold {NEWEST.number}`"
            raise Refused("not_in_this_fold", rule, field="body")
        if not settings.version:
            return Checked(rules, 0)
        state = read_settings(settings.document, settings.state, rules.limits)
        return Checked(rules.under(state), settings.version_sequence)

    async def _documents(self) -> AsyncIterator[tuple[int, Document]]:
        """Yield the documents as they are at the head, in the order of the changes."""
        keys = [change.key for change in self._asked.changes]
        for begin in range(0, len(keys), DOCUMENTS_AT_ONCE):
            part = keys[begin : begin + DOCUMENTS_AT_ONCE]
            found = await self._load(part)
            changes = self._asked.changes[begin : begin + DOCUMENTS_AT_ONCE]
            if any(document.version < it.version for document, it in zip(found, changes, strict=True)):
                # The rows may be behind the log: what is there now decides.
                await self._catch_up()
                found = await self._load(part)
            for index, document in enumerate(found, begin):
                yield index, document
                # Folding takes time: other tasks run between two.
                await asyncio.sleep(0)

    async def _load(self, keys: list[Key]) -> list[Document]:
        """Load documents, each before its first event where it has none."""
        for _ in range(APPEND_ATTEMPTS_MAX):
            try:
                rows = await self._context.store.load(keys)
            except FenceLost:
                # A large state was written between two statements.
                continue
            found = {(it.namespace, it.document): it for it in rows}
            return [found.get(key) or Document.new(Route.of(*key)) for key in keys]
        raise contended("documents", APPEND_ATTEMPTS_MAX)

    async def _catch_up(self) -> None:
        if not await self._context.consistency.catch_up(self._deadline):
            raise TimedOut("the projection has not caught up with the log in time; nothing was published")

    async def _repeated(self, index: int, document: Document) -> int:
        """Return where an earlier request has put the first member of the same transaction, else raise the 412."""
        asked, store = self._asked, self._context.store
        entry = await store.find_id(*asked.changes[0].key, asked.id)
        if entry is None or not self._is_same(0, entry):
            change = asked.changes[index]
            name = "/".join(change.key)
            detail = f"{name} is at version {document.version}, not {change.version}; nothing was published"
            facts: View = {"index": index, "doc": change.key[1], "version": document.version}
            raise Problem(412, "precondition_failed", detail, **facts)
        for at, change in enumerate(asked.changes):
            other = await store.entry(*change.key, entry.sequence + at)
            if other is None or not self._is_same(at, other):
                detail = f"the transaction's id was used for another one, at sequence {entry.sequence}"
                raise Problem(409, "rejected", detail, reason="id_reused", index=at, doc=change.key[1])
        return entry.sequence

    def _is_same(self, index: int, entry: Entry) -> bool:
        """Tell whether a recorded event is this member, whatever settings it was checked under."""
        ours = json_text.loads(self._publication(index, _NOWHERE, 0).body)
        recorded = fields_of(entry)
        if isinstance(recorded.get("txn"), dict):
            recorded["txn"]["settings"] = 0
        return recorded.get("id") == self._asked.id and content_of(recorded) == content_of(ours)


_NOWHERE: Final = Document.new(Route.of("n", "d"))


def _check_ahead(
    index: int, document: Document, publication: Publication, rules: Rules, recorded_at: int
) -> None:
    """Fold a member ahead. Raises the 409 that names it where the fold would reject it."""
    subject = Route.of(document.namespace, document.document).subject
    record = Record(document.last_sequence + 1, recorded_at, subject, b"", publication.body)
    outcome = fold(document, record, rules, recorded_at=recorded_at).outcome
    if not outcome.status.is_effective:
        raise _refusal(index, document, outcome)


def _refusal(index: int, document: Document, outcome: Outcome) -> Problem:
    reason = outcome.reason or "id_reused"
    why = outcome.detail or "an event of the document carries the transaction's id"
    detail = f"{document.namespace}/{document.document}: {why}; nothing was published"
    return Problem(409, "rejected", detail, reason=reason, index=index, doc=document.document)


# --- Answer it --------------------------------------------------------------------------------------------


async def _outcomes(context: Context, asked: Asked, first_sequence: int, deadline: float) -> list[View]:
    """Wait for all outcomes; return none where one of them has not come in time."""
    outcomes: list[View] = []
    for sequence, change in enumerate(asked.changes, first_sequence):
        outcome = await context.outcomes.wait(*change.key, sequence, deadline)
        if outcome is None:
            return []
        outcomes.append(outcome)
    return outcomes


def _cache_heads(context: Context, asked: Asked, outcomes: list[View]) -> None:
    for change in asked.changes:
        context.head_cache.pop(change.key, None)
    for change, outcome in zip(asked.changes, outcomes, strict=False):
        if outcome["status"] in _EFFECTIVE:
            head = BareHead(outcome["version"], outcome["sequence"], "delete" in change.fields)
            context.head_cache.put(change.key, head)


def _answer(view: View, outcomes: list[View]) -> Response:
    if not outcomes:
        return json_response({**view, "status": "pending"}, 202)
    rejected = next((it for it in outcomes if it.get("first", it)["status"] == "rejected"), None)
    if rejected is not None:
        detail = f"the fold rejected the change of {rejected['document']}"
        facts = {"reason": rejected.get("first", rejected)["reason"], "doc": rejected["document"]}
        return Problem(409, "rejected", detail, **view, **facts, outcomes=outcomes).response()
    status = "duplicate" if any(it["status"] == "duplicate" for it in outcomes) else "applied"
    return json_response({**view, "status": status, "outcomes": outcomes})
