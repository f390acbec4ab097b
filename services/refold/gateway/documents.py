"""The routes of documents: read and write one, list a namespace's, list the namespaces.

An event that the fold would reject on any document is refused before it is published. Part of `refold.gateway.app`.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import orjson
from pydantic import Field
from starlette.requests import Request

from refold.core import json_text
from refold.core.envelope import JSON_PATCH, MERGE_PATCH
from refold.core.errors import DocumentAbsent, Refused
from refold.core.fold import EVENT_BYTES_MAX, STATE_BYTES_MAX
from refold.core.history import NEVER, Clock, Point, Snapshot
from refold.core.json_text import Json
from refold.core.pointer import parse, resolve
from refold.core.stream import NAME_CHARS_MAX, check_document, check_name, check_namespace
from refold.core.timestamp import format_time, is_relative
from refold.gateway.announced import KnownState
from refold.gateway.conditions import ANYTHING, is_unchanged, known_version, write_condition
from refold.gateway.context import Context, context_of
from refold.gateway.drafts import Draft, check, split_of
from refold.gateway.inflight import deadline_in
from refold.gateway.requests import (
    ANSWER_ITEMS_MAX,
    Limit,
    PointQuery,
    Version,
    carried_headers,
    check_media_type,
    document_name,
    event_fields,
    header,
    min_sequence,
    read_json,
    read_query,
    read_time,
    read_wait,
    refuse_contradictions,
    refuse_query,
    wait_for_consistency,
)
from refold.gateway.responses import (
    JSON,
    Problem,
    Response,
    as_duplicate,
    bare_response,
    json_response,
    outcome_response,
    page_response,
    pending_response,
    version_headers,
)
from refold.gateway.writes import head_version, wait_until_folded, write, write_deadline
from refold.log import whole_sequence
from refold.store import ANY_VERSION, NEEDS_RESOLUTION, OMITTED, Head, Key

# --- Read one --------------------------------------------------------------------------------------------


class ReadQuery(PointQuery):
    """One document: at its head, or as of a version, a time or a sequence of the log."""

    version: Version | None = None
    path: str | None = None
    min_version: Version | None = None
    min_sequence: Version | None = None


_AT_HEAD: Final = ReadQuery()


async def read_document(request: Request) -> Response:
    """Return the state at the head or at any version, time or sequence; 304 if the client has it."""
    context = context_of(request)
    key = document_name(request)
    known = None if request.scope["query_string"] else _known_head(request, context, key)
    if known is not None:
        return _state_response(request, known[:4], known.state)
    query = read_query(request, ReadQuery) if request.scope["query_string"] else _AT_HEAD
    await wait_for_consistency(request, deadline_in(context.wait_seconds), *key)
    point = None if query is _AT_HEAD else await _read_point(context, key, query)
    # The answer to HEAD needs no state, unless it says whether there is a value at a path.
    is_bare = request.method == "HEAD" and query.path is None
    snapshot = await _snapshot(context, key, point, ANY_VERSION if is_bare else known_version(request))
    if snapshot.state is None:
        raise await _absent(context, key, snapshot, query)
    times = format_time(snapshot.recorded_at), format_time(snapshot.occurred_at)
    about = (snapshot.version, snapshot.sequence, *times)
    if point is None and snapshot.state != OMITTED:
        context.known_states.put(key, KnownState(*about, snapshot.state))
    return _state_response(request, about, snapshot.state, query.path)


def _known_head(request: Request, context: Context, key: Key) -> KnownState | None:
    """Return the head's state where its last event is this gateway's own write, folded and not committed yet."""
    sequence = context.consistency.awaited_sequence(key)
    # The client may know of a later event of another gateway.
    if not sequence or min_sequence(request) > sequence:
        return None
    return context.known_states.head(key, sequence)


async def _snapshot(context: Context, key: Key, point: Point | None, known: int | None) -> Snapshot:
    """Read a snapshot; the head's state is `OMITTED` at the version that is known, `ANY_VERSION` for each."""
    if point is not None:
        return await context.history.snapshot(*key, point)
    head = await context.store.head(*key, known_version=known)
    context.head_cache.put_row(key, head)
    return NEVER if head is None else head.snapshot


async def _read_point(context: Context, key: Key, query: ReadQuery) -> Point | None:
    """Return the point that a query asks for, once all that it waits for is folded; None for the head."""
    refuse_contradictions(query, "version", "at", "sequence")
    deadline, consistency = deadline_in(query.timeout), context.consistency
    if query.min_sequence is not None:
        await consistency.wait_for_sequence(query.min_sequence, deadline, key)
    if query.min_version is not None:
        await consistency.wait_for_version(key, query.min_version, deadline)
    if query.version is not None:
        return Point(Clock.version, query.version)
    return await _point(context, query, deadline, key)


async def _point(
    context: Context, query: PointQuery, deadline: float, key: Key | None = None
) -> Point | None:
    """Return the point that a query asks for, once everything before it is folded; None if it asks for none.

    A point by occurred time is of what is folded now: an author may always add something earlier.
    """
    if query.sequence is not None:
        await context.consistency.refuse_future(query.sequence)
        await context.consistency.wait_for_sequence(query.sequence, deadline, key)
        return Point(Clock.sequence, await whole_sequence(context.log, query.sequence))
    if query.at is None:
        return None
    time = read_time(query.at)
    if query.clock == "occurred":
        return Point(Clock.occurred, time)
    await context.consistency.wait_for_time(time, deadline, key)
    return Point(Clock.recorded, time)


async def _absent(context: Context, key: Key, snapshot: Snapshot, query: ReadQuery) -> DocumentAbsent:
    """Return the error that names the document, its head and, for a point before it existed, its first version."""
    name, head_version = "/".join(key), snapshot.version
    if query is not _AT_HEAD:
        head = await context.store.head(*key, known_version=ANY_VERSION)
        head_version = 0 if head is None else head.snapshot.version
    facts: dict[str, object] = {"version": snapshot.version, "head": head_version}
    if not head_version:
        return DocumentAbsent(f"{name} never existed", **facts)
    if snapshot.version:
        deleted = f"{name} is absent: version {snapshot.version} deleted it"
        return DocumentAbsent(f"{deleted}; its head is version {head_version}", **facts)
    first = await context.history.snapshot(*key, Point(Clock.version, 1))
    recorded_at, occurred_at = format_time(first.recorded_at), format_time(first.occurred_at)
    begun = f"{name} did not exist then: its first version"
    detail = f"{begun}, of sequence {first.sequence}, was recorded at {recorded_at}"
    if query.at is not None and query.clock == "occurred":
        detail = f"{begun} occurred at {occurred_at}"
    elif query.at is not None and first.occurred_at <= read_time(query.at):
        detail += f" and occurred at {occurred_at}: ask with clock=occurred"
    return DocumentAbsent(f"{detail}; its head is version {head_version}", **facts)


def _state_response(
    request: Request, about: tuple[int, int, str, str], state: bytes, path: str | None = None
) -> Response:
    """Return a state; `about` are its version, its sequence, and when it was recorded and occurred."""
    headers = version_headers(*about)
    if is_unchanged(request, about[0]):
        return Response(None, 304, headers)
    if state == OMITTED:
        return bare_response(headers)
    body = state if path is None else json_text.dumps(value_at(state, path)[0])
    return Response(body, 200, headers, JSON)


def value_at(state: bytes, path: str) -> tuple[Json, tuple[str, ...]]:
    """Return the value at a JSON Pointer, and its tokens. Raises `Refused`, and `Problem` where there is none."""
    try:
        tokens = parse(path)
    except Refused as refused:
        raise Refused(refused.reason, refused.message, field="path", shape=refused.shape) from refused
    try:
        return resolve(json_text.loads(state), tokens), tokens
    except Refused as refused:
        raise Problem(404, "path_absent", f"path: {refused}", field="path") from refused


# --- Write one -------------------------------------------------------------------------------------------

PUT_BYTES_MAX: Final = STATE_BYTES_MAX + EVENT_BYTES_MAX
"""Body of a PUT: a state as it is answered, or one with a little white space."""


async def put_document(request: Request) -> Response:
    """Write the whole state; one that is too large for one event is written as several, all or none."""
    begun = begin_write(request)
    check_media_type(request, (JSON,))
    state = await read_json(request, PUT_BYTES_MAX, "state_too_large")
    return await write_change(request, begun, {"put": state})


async def patch_document(request: Request) -> Response:
    """Change the document by a JSON Patch or a merge patch, all or nothing."""
    begun = begin_write(request)
    media = check_media_type(request, (JSON_PATCH, MERGE_PATCH))
    change = await read_json(request)
    return await write_change(request, begun, {"patch" if media == JSON_PATCH else "merge": change})


async def delete_document(request: Request) -> Response:
    """Make the document absent; its history stays."""
    return await write_change(request, begin_write(request), {"delete": True})


class Begun(NamedTuple):
    """What a write's head says: its document, the event's fields without the change, the headers that it carries."""

    key: Key
    fields: dict[str, Json]
    headers: tuple[tuple[str, str], ...]
    has_own_id: bool


def begin_write(request: Request) -> Begun:
    """Read everything before the body first, so that errors in it are reported first."""
    refuse_query(request)
    namespace, document = request.path_params["namespace"], request.path_params["document"]
    fields = event_fields(request)
    check_namespace(namespace)
    check_document(document, "document")
    has_own_id = "id" in fields
    if not has_own_id:
        fields["id"] = context_of(request).new_id()
    return Begun((namespace, document), fields, carried_headers(request), has_own_id)


async def write_change(
    request: Request, begun: Begun, change: dict[str, Json], *, conflict_hint: str = ""
) -> Response:
    """Publish an event with this change and wait for its outcome; `change` may have other fields of the event, too.

    `conflict_hint`: what the author can do where the event is rejected because of what came since its base.
    """
    context = context_of(request)
    wait = read_wait(request, context.wait_seconds)
    condition = write_condition(request)
    if condition is not ANYTHING and not begun.fields.keys().isdisjoint(("base", "on_conflict")):
        name = "If-Match" if header(request, b"if-match") is not None else "If-None-Match"
        detail = f"{name}: cannot be combined with Refold-Base or Refold-On-Conflict"
        raise Problem(422, "contradictory", detail, field=name)
    headers = begun.headers + ((("Refold-Reply", context.reply_subject),) if wait.seconds > 0 else ())
    fields = {**begun.fields, **change}
    state = json_text.dumps(change["put"]) if "put" in change else None
    made = Draft(
        key=begun.key,
        fields=fields,
        headers=headers,
        has_own_id=begun.has_own_id,
        split=None if state is None else split_of(fields, len(state)),
    )
    # The event is checked before the first look at the store.
    if made.split is None:
        check(made.fields)
    await _check_references(context, begun, write_deadline(wait))
    written = await write(context, made, condition, wait, state)
    if written.outcome is None:
        return pending_response(*made.key, written.sequence, made.id)
    outcome = as_duplicate(written.outcome) if written.is_repeat else written.outcome
    return outcome_response(outcome, conflict_hint)


async def _check_references(context: Context, begun: Begun, deadline: float) -> None:
    """Refuse an event that names a version or a conflict which its document has not: the fold would take it.

    A decision that is sent again names a conflict that is resolved by now, which is no reason to refuse it.
    """
    key, reverts, resolves = begun.key, begun.fields.get("reverts"), begun.fields.get("resolves")
    if type(reverts) is int:
        await wait_until_folded(context, key, reverts, deadline)
        head = await head_version(context, key)
        if reverts > head:
            rule = f"a version of the document, which is at version {head}"
            raise Refused("bad_field", rule, field="reverts", shape=str(reverts))
    if type(resolves) is int:
        await context.consistency.refuse_future(resolves, "resolves")
        await context.consistency.wait_for_sequence(resolves, deadline, key)
        found = await context.history.outcome(*key, resolves)
        if found is None or found.get("reason") != NEEDS_RESOLUTION:
            rule = f"the sequence of an event of this document that was rejected with `{NEEDS_RESOLUTION}`"
            raise Refused("bad_field", rule, field="resolves", shape=str(resolves))


# --- Lists -----------------------------------------------------------------------------------------------

WHERE_CHARS_MAX: Final = 10_000
"""A predicate of a list."""


class ListQuery(PointQuery):
    """A part of a namespace, at its head or as of a time or a sequence of the log."""

    prefix: str = Field("", max_length=NAME_CHARS_MAX)
    where: str | None = Field(None, max_length=WHERE_CHARS_MAX)
    limit: Limit = ANSWER_ITEMS_MAX
    cursor: str | None = Field(None, max_length=1_000)
    fields: Literal["id"] | None = None
    absent: Literal["true"] | None = None


async def list_documents(request: Request) -> Response:
    """List the namespace's present documents by id, bounded; none for an unknown namespace.

    With `sequence`, or `at` by recorded time, every response along `next` is of that one moment.
    """
    namespace, query = request.path_params["namespace"], read_query(request, ListQuery)
    check_name(namespace, "namespace")
    refuse_contradictions(query, "where", "at", "sequence", "absent")
    if query.cursor is not None and query.at is not None and is_relative(query.at):
        rule = "a relative time would mean another moment in each part of the list: give the time itself"
        raise Refused("bad_time", rule, field="at", shape=repr(query.at))
    context = context_of(request)
    if query.sequence is not None:
        await context.consistency.refuse_future(query.sequence)
    await wait_for_consistency(request, deadline_in(query.timeout), namespace)
    if query.absent is not None:
        return await _list_names(context, namespace, query)
    point = await _point(context, query, deadline_in(query.timeout))
    prefix, limit, cursor = query.prefix, query.limit, query.cursor
    if point is None:
        page = await context.store.list_documents(
            namespace,
            prefix=prefix,
            where=query.where,
            limit=limit,
            cursor=cursor,
            is_bare=query.fields == "id",
        )
    else:
        page = await context.store.list_at(namespace, point, prefix=prefix, limit=limit, cursor=cursor)
    items = [_item(head, is_bare=query.fields == "id") for head in page.heads]
    return page_response(items, page.cursor)


async def list_namespaces(request: Request) -> Response:
    """List the namespaces with their document and event counts."""
    refuse_query(request)
    context = context_of(request)
    await wait_for_consistency(request, deadline_in(context.wait_seconds))
    counts = await context.store.namespaces()
    return json_response({"items": [count._asdict() for count in counts]})


async def _list_names(context: Context, namespace: str, query: ListQuery) -> Response:
    if query.fields is None:
        detail = "absent: only with fields=id, for an absent document has no state"
        raise Problem(422, "contradictory", detail, field="absent")
    found = await context.store.list_names(
        namespace, prefix=query.prefix, limit=query.limit, cursor=query.cursor
    )
    items = [
        _named(name.document, name.version, name.recorded_at) | ({} if name.is_present else {"absent": True})
        for name in found.names
    ]
    return page_response([orjson.dumps(item) for item in items], found.cursor)


def _item(head: Head, *, is_bare: bool) -> bytes:
    snapshot = head.snapshot
    item = _named(head.document, snapshot.version, snapshot.recorded_at)
    item["occurred_at"] = format_time(snapshot.occurred_at)
    if not is_bare:
        assert snapshot.state is not None, head.document
        item["state"] = orjson.Fragment(snapshot.state)
    return orjson.dumps(item)


def _named(document: str, version: int, recorded_at: int) -> dict[str, Json]:
    return {"id": document, "version": version, "recorded_at": format_time(recorded_at)}
