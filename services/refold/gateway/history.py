"""The routes of a document's past: versions, diffs, conflicts, rejections, outcomes. Part of `refold.gateway.app`."""

from __future__ import annotations

import re
from typing import Final, Literal

import orjson
from pydantic import Field
from starlette.requests import Request

from refold.core.envelope import JSON_PATCH
from refold.core.errors import DocumentAbsent, Refused, TimedOut
from refold.core.fold import ID_CHARS_MAX
from refold.core.history import NEVER, Clock, Point
from refold.core.stream import check_name
from refold.gateway.context import Context, context_of
from refold.gateway.documents import value_at
from refold.gateway.inflight import deadline_in
from refold.gateway.requests import (
    ANSWER_ITEMS_MAX,
    READ_SECONDS,
    Limit,
    NoQuery,
    Timeout,
    Version,
    document_name,
    path_sequence,
    read_query,
    refuse_query,
    wait_for_consistency,
)
from refold.gateway.responses import JSON, Problem, Response, json_response, page_response
from refold.store import ANY_VERSION, Key

COMMIT_SECONDS: Final = 0.5
"""How long a request for an outcome or a conflict waits for its commit; an outcome is pending after that."""


class HistoryQuery(NoQuery):
    """A part of a document's history."""

    after: Version | None = None
    limit: Limit = ANSWER_ITEMS_MAX
    order: Literal["asc", "desc"] = "asc"
    path: str | None = None


class DiffQuery(NoQuery):
    """Two versions."""

    from_: Version = Field(alias="from")
    to: Version


class BlameQuery(NoQuery):
    """A part of a document's leaves, at its head or at a version."""

    version: Version | None = None
    path: str = ""
    limit: Limit = ANSWER_ITEMS_MAX
    cursor: str | None = None


class RejectionsQuery(NoQuery):
    """A part of a document's rejections, newest first."""

    after: Version | None = None
    limit: Limit = ANSWER_ITEMS_MAX


class AllRejectionsQuery(RejectionsQuery):
    """A part of the rejections of a namespace, or of all."""

    namespace: str | None = None


class ConflictsQuery(NoQuery):
    """A part of a document's conflicts."""

    after: Version | None = None
    limit: Limit = ANSWER_ITEMS_MAX
    order: Literal["asc", "desc"] = "asc"
    open: Literal["true"] | None = None


class OpenConflictsQuery(NoQuery):
    """A part of the open conflicts of a namespace, or of all, oldest first."""

    namespace: str | None = None
    after: Version = 0
    limit: Limit = ANSWER_ITEMS_MAX


class OutcomeQuery(NoQuery):
    """An event by its id."""

    id: str = Field(min_length=1, max_length=ID_CHARS_MAX)
    timeout: Timeout = READ_SECONDS


async def read_history(request: Request) -> Response:
    """List the document's versions with the patches that made them, bounded; `next` continues."""
    query = read_query(request, HistoryQuery)
    context, key = await _begin(request)
    found = await context.history.changes(
        *key,
        after=query.after,
        limit=query.limit,
        is_descending=query.order == "desc",
        path=query.path,
    )
    if not found.items:
        await _refuse_unknown(context, key)
    return page_response(found.items, found.next)


async def read_diff(request: Request) -> Response:
    """Return the patch that turns one version into the other."""
    query = read_query(request, DiffQuery)
    context, key = await _begin(request)
    patch = await context.history.diff(*key, query.from_, query.to)
    return Response(orjson.dumps(patch), 200, None, JSON_PATCH)


async def read_blame(request: Request) -> Response:
    """List the leaves below a path with the version, time and actor that last wrote each, bounded; `next` continues."""
    query = read_query(request, BlameQuery)
    version, first = (query.version, 0) if query.cursor is None else _read_cursor(query.cursor)
    if query.version not in (None, version):
        raise Problem(422, "contradictory", "version and cursor: they name two versions", field="cursor")
    context, key = await _begin(request)
    if version is None:
        head = await context.store.head(*key)
        snapshot = NEVER if head is None else head.snapshot
    else:
        snapshot = await context.history.snapshot(*key, Point(Clock.version, version))
    version, name = snapshot.version, "/".join(key)
    if snapshot.state is None:
        detail = f"{name} is absent at version {version}" if version else f"{name} never existed"
        raise DocumentAbsent(detail, version=version)
    value, tokens = value_at(snapshot.state, query.path)
    found = await context.history.blame(*key, version, value, tokens, first=first, limit=query.limit)
    following = None if found.next is None else f"{version}.{found.next}"
    body = b'{"version":%d,"searched_from":%d,"items":[%b],"next":%b}'
    about = version, found.searched_from, b",".join(found.items), orjson.dumps(following)
    return Response(body % about, 200, None, JSON)


def _read_cursor(cursor: str) -> tuple[int, int]:
    """Return the version and the number of the leaf that an answer continues with."""
    if not _CURSOR.fullmatch(cursor):
        rule = "give the `next` of an answer as it is"
        raise Refused("bad_cursor", rule, field="cursor", shape=repr(cursor[:80]))
    version, _, first = cursor.partition(".")
    return int(version), int(first)


_CURSOR: Final = re.compile(r"[1-9][0-9]{0,17}\.[1-9][0-9]{0,8}")


async def read_rejections(request: Request) -> Response:
    """List the events that the fold rejected for this document, newest first."""
    query = read_query(request, RejectionsQuery)
    context, key = await _begin(request)
    items, following = await context.history.rejections(*key, limit=query.limit, before_sequence=query.after)
    if not items:
        await _refuse_unknown(context, key)
    return json_response({"items": items, "next": following})


async def read_all_rejections(request: Request) -> Response:
    """List the events that the fold rejected in a namespace, or everywhere, newest first."""
    query = read_query(request, AllRejectionsQuery)
    if query.namespace is not None:
        check_name(query.namespace, "namespace")
    context = context_of(request)
    await wait_for_consistency(request, deadline_in(context.wait_seconds), query.namespace)
    found = await context.history.rejections(
        query.namespace, None, limit=query.limit, before_sequence=query.after
    )
    return json_response({"items": found[0], "next": found[1]})


async def read_conflicts(request: Request) -> Response:
    """List what came of this document's stale events: merged ones and rejected ones; `open`: those to be decided."""
    query = read_query(request, ConflictsQuery)
    context, key = await _begin(request)
    found = await context.conflicts.of_document(
        key,
        after=query.after,
        limit=query.limit,
        is_descending=query.order == "desc",
        is_open=query.open is not None,
    )
    if not found.items:
        await _refuse_unknown(context, key)
    return page_response(found.items, found.next)


async def read_conflict(request: Request) -> Response:
    """Return one conflict with the states that it is about: at its base, what its author made of it, and the head."""
    refuse_query(request)
    sequence = path_sequence(request)
    context, key = await _begin(request)
    found = await context.conflicts.one(key, sequence)
    if found is None and await _is_in_log(context, sequence):
        # It may have been sent already: that is before it is committed.
        await context.consistency.reach(sequence, deadline_in(COMMIT_SECONDS), key)
        found = await context.conflicts.one(key, sequence)
    if found is None:
        detail = f"the document has no conflict at sequence {sequence}"
        raise Problem(404, "conflict_unknown", detail, field="sequence")
    return json_response(found)


async def read_open_conflicts(request: Request) -> Response:
    """List the conflicts of a namespace, or of all, that wait for a resolver's decision, oldest first."""
    query = read_query(request, OpenConflictsQuery)
    if query.namespace is not None:
        check_name(query.namespace, "namespace")
    context = context_of(request)
    await wait_for_consistency(request, deadline_in(context.wait_seconds), query.namespace)
    found = await context.conflicts.open_ones(query.namespace, after=query.after, limit=query.limit)
    return page_response(found.items, found.next)


async def read_outcome_by_id(request: Request) -> Response:
    """Return the outcome of the first event with this id, once everything that the log holds now is folded."""
    query = read_query(request, OutcomeQuery)
    context, key = await _begin(request)
    found = await context.history.outcome_of_id(*key, query.id)
    if found is None:
        if not await context.consistency.catch_up(deadline_in(query.timeout), key):
            raise TimedOut("the projection did not catch up with the log in time")
        found = await context.history.outcome_of_id(*key, query.id)
    if found is None:
        raise Problem(
            404, "outcome_unknown", "the document has no event with this id among its last ones", field="id"
        )
    return json_response(found)


async def read_outcome(request: Request) -> Response:
    """Return the outcome of the event at a sequence; 202 while it is not folded."""
    refuse_query(request)
    sequence = path_sequence(request)
    context, key = await _begin(request)
    found = await context.history.outcome(*key, sequence)
    if found is None and await _is_in_log(context, sequence):
        # Its author may have it already: it is sent before it is committed.
        is_committed = await context.consistency.reach(sequence, deadline_in(COMMIT_SECONDS), key)
        found = await context.history.outcome(*key, sequence)
        if found is None and not is_committed:
            return json_response({"status": "pending", "sequence": sequence}, 202)
    if found is not None:
        return json_response(found)
    detail = f"the document has no event at sequence {sequence}"
    raise Problem(404, "outcome_unknown", detail, field="sequence")


async def _begin(request: Request) -> tuple[Context, Key]:
    """Check the names, and wait for what this gateway and the client have received about the document."""
    context, key = context_of(request), document_name(request)
    await wait_for_consistency(request, deadline_in(context.wait_seconds), *key)
    return context, key


async def _refuse_unknown(context: Context, key: Key) -> None:
    """Refuse a document that never had an event: an empty answer would hide a misspelled name."""
    if await context.store.head(*key, known_version=ANY_VERSION) is None:
        raise DocumentAbsent(f"{'/'.join(key)} never existed", version=0, head=0)


async def _is_in_log(context: Context, sequence: int) -> bool:
    if sequence <= context.consistency.known_sequence:
        return True
    return sequence <= (await context.log.info()).last_sequence
