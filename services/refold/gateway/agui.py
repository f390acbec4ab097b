"""The route of AG-UI: a document as the shared state of an agent. Part of `refold.gateway.app`.

A run takes the state that the client has, as one event with its base, and answers with the document's state.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson
from pydantic import Field
from starlette.requests import Request

from refold.core import json_text
from refold.core.agui import (
    EVENT_TYPE,
    STAMP_PATTERN,
    add_stamp,
    find_edits,
    read_posted,
)
from refold.core.errors import Refused, TimedOut, VersionUnknown
from refold.core.fold import NEWEST
from refold.core.history import NEVER, Clock, Point, Snapshot
from refold.core.json_text import Json, shape_of
from refold.core.stream import check_document, check_namespace
from refold.gateway.conditions import ANYTHING
from refold.gateway.context import context_of
from refold.gateway.drafts import Draft, check
from refold.gateway.inflight import deadline_in
from refold.gateway.requests import (
    NoQuery,
    Version,
    Wait,
    carried_headers,
    check_media_type,
    check_parameters,
    event_fields,
    query_pairs,
    read_body,
    unrepeated,
)
from refold.gateway.responses import JSON, Problem, Response, problem_of
from refold.gateway.writes import wait_until_folded, write
from refold.history import THREADED_BYTES
from refold.store import Key

INPUT_BYTES_MAX: Final = 9 * 1024 * 1024
"""Body of a run: a state of the largest size, with messages beside it."""

PROTOCOL_VERSION: Final = "1.0"
EVENT_STREAM: Final = "text/event-stream"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_FIELDS: Final = frozenset({"actor", "meta"})

_NOTHING: Final = object()
"""No state was posted."""


class RunOptions(NoQuery):
    """What a run does: in the query string, or in `forwardedProps.refold`, which takes precedence."""

    base: Version | None = None
    stamp: str | None = Field(None, pattern=STAMP_PATTERN)
    clear: bool = False
    on_conflict: str | None = None


class RunInput(NamedTuple):
    """A `RunAgentInput`, as far as it is used here; `refusal` is why no document can have the state."""

    thread_id: str
    run_id: str
    state: Json
    refusal: Refused | None
    options: dict[str, str]


async def run_document(request: Request) -> Response:
    """Take the client's edits in, and answer with the state: one exchange."""
    namespace, document = request.path_params["namespace"], request.path_params["document"]
    check_namespace(namespace)
    check_document(document, "document")
    fields = event_fields(request)
    for name in fields.keys() - _FIELDS:
        rule = "of an event's fields, a run has Refold-Actor and Refold-Meta"
        raise Refused("unknown_field", rule, field=f"refold-{name.replace('_', '-')}")
    check_media_type(request, (JSON,))
    given = read_run_input(await read_body(request, INPUT_BYTES_MAX, "input_too_large"))
    options = check_parameters(unrepeated(query_pairs(request)) | given.options, RunOptions)
    run = _Run(request, (namespace, document), given, options)
    return Response(b"".join(await run.exchange(fields)), 200, _HEADERS, EVENT_STREAM)


class _Run:
    """One run of a client on a document."""

    def __init__(self, request: Request, key: Key, given: RunInput, options: RunOptions) -> None:
        self._request = request
        self._context = context_of(request)
        self._key = key
        self._given = given
        self._options = options
        self._of_run = {"threadId": given.thread_id, "runId": given.run_id}

    async def exchange(self, fields: dict[str, Json]) -> list[bytes]:
        """Return the whole of a run that does not follow the document."""
        events = [_event("RUN_STARTED", **self._of_run, protocolVersion=PROTOCOL_VERSION)]
        if self._options.stamp is not None:
            # A document that cannot have the stamp is refused before anything is written.
            self._snapshot(await self._head())
        events += await self._take_state(fields)
        head = await self._head()
        result = {"version": head.version, "sequence": head.sequence, "why": "current"}
        finished = _event("RUN_FINISHED", **self._of_run, result=result, outcome={"type": "success"})
        return [*events, self._snapshot(head), finished]

    async def _head(self) -> Snapshot:
        context = self._context
        deadline = deadline_in(context.wait_seconds)
        await context.readiness.wait(deadline)
        await context.consistency.wait_for_announced(deadline, *self._key)
        head = await context.store.head(*self._key)
        return NEVER if head is None else head.snapshot

    def _snapshot(self, head: Snapshot) -> bytes:
        about: dict[str, Json] = {"version": head.version, "sequence": head.sequence}
        if head.state is None:
            about["absent"] = True
        state: Any = orjson.Fragment(b"{}" if head.state is None else head.state)
        if self._options.stamp is not None:
            state = add_stamp(orjson.loads(head.state or b"{}"), self._options.stamp, head.version)
        return _event("STATE_SNAPSHOT", snapshot=state, metadata={"refold": about})

    # --- The posted state --------------------------------------------------------------------------------

    async def _take_state(self, fields: dict[str, Json]) -> list[bytes]:
        """Write the edits that the posted state has; return what the client must know of it."""
        given, options = self._given, self._options
        if given.state is _NOTHING:
            return []
        posted = read_posted(given.state, base=options.base, stamp=options.stamp)
        if posted.base is None:
            return [] if posted.state == {} else [_ignored("no_base")]
        if given.refusal is not None:
            return [_refused(given.refusal)]
        base = await self._state_at(posted.base)
        if base is _NOTHING:
            return [_ignored("base_unknown")]
        if posted.state == {} != base and not options.clear:
            # A client that has folded nothing posts this, whatever it knows.
            return [_ignored("empty_state")]
        edits = await _find_edits(base, posted.state)
        return await self._write(fields, edits, posted.base) if edits else []

    async def _state_at(self, version: int) -> Json:
        """Return the state at a version, `{}` where the document was absent; `_NOTHING` for an unknown version."""
        if version == 0:
            return {}
        await wait_until_folded(self._context, self._key, version)
        try:
            found = await self._context.history.snapshot(*self._key, Point(Clock.version, version))
        except VersionUnknown:
            return _NOTHING
        return {} if found.state is None else json_text.reread(found.state)

    async def _write(self, fields: dict[str, Json], edits: list[Json], base: int) -> list[bytes]:
        draft = self._draft(fields, edits, base)
        try:
            check(draft.fields)
            draft.publications()
        except Refused as refused:
            return [_refused(refused)]
        wait = Wait(self._context.wait_seconds, is_for_commit=False)
        written = await write(self._context, draft, ANYTHING, wait)
        outcome = written.outcome
        if outcome is None:
            detail = "the event is in the log and not folded yet: ask for its outcome by its id"
            raise TimedOut(detail, id=draft.id, sequence=written.sequence)
        if outcome.get("first", outcome)["status"] == "rejected":
            return [_custom("refold.rejected", outcome)]
        return [_custom("refold.merged", outcome)] if outcome.get("dropped") else []

    def _draft(self, fields: dict[str, Json], edits: list[Json], base: int) -> Draft:
        """Draft the event.

        It has no session: the patch is from the base alone, and a session's view has the events after it, too.
        """
        own = {"patch": edits, "base": base, "id": event_id(self._given), "type": EVENT_TYPE}
        if self._options.on_conflict is not None:
            own["on_conflict"] = self._options.on_conflict
        fields = {"correlation_id": self._given.thread_id, **fields, **own}
        headers = (*carried_headers(self._request), ("Refold-Reply", self._context.reply_subject))
        return Draft(key=self._key, fields=fields, headers=headers, has_own_id=True)


async def _find_edits(base: Json, state: Json) -> list[Json]:
    if json_text.size(base) + json_text.size(state) <= THREADED_BYTES:
        return find_edits(base, state)
    return await asyncio.to_thread(find_edits, base, state)


# --- Input -----------------------------------------------------------------------------------------------


def read_run_input(body: bytes) -> RunInput:
    """Read a run's input leniently: its state is compared, not kept. Raises `Refused` where it is none."""
    given = json_text.loads_leniently(body)
    if type(given) is not dict:
        raise Refused("bad_field", "a RunAgentInput is an object", field="body", shape=shape_of(given))
    state = given.get("state", _NOTHING)
    properties = given.get("forwardedProps")
    options = properties.get("refold") if type(properties) is dict else None
    return RunInput(
        thread_id=_id(given, "threadId"),
        run_id=_id(given, "runId"),
        state=state,
        refusal=None if state is _NOTHING else _refusal_of(state),
        options=_option_texts(options),
    )


def event_id(given: RunInput) -> str:
    """Return the id of a run's event: the same when the run is sent again."""
    text = f"agui:{given.thread_id}:{given.run_id}"
    return text if len(text) <= NEWEST.limits.id_chars else f"agui:{sha256(text.encode()).hexdigest()}"


def _id(given: dict[str, Json], name: str) -> str:
    value = given.get(name)
    if type(value) is not str or not value:
        raise Refused("bad_field", "must be a string that is not empty", field=name, shape=shape_of(value))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        rule = "half of a surrogate pair stands alone"
        raise Refused("lone_surrogate", rule, field=name, shape=shape_of(value)) from error
    return value


def _refusal_of(state: Json) -> Refused | None:
    """Return why no document can have a state; None where one can."""
    try:
        json_text.check_lenient(state, NEWEST.limits.depth)
    except Refused as refused:
        return refused
    return None


def _option_texts(options: Json) -> dict[str, str]:
    """Return the options of `forwardedProps.refold` as the query string has them."""
    if options is None:
        return {}
    if type(options) is not dict:
        rule = "the options are an object"
        raise Refused("bad_field", rule, field="forwardedProps.refold", shape=shape_of(options))
    return {
        name: value if type(value) is str else json_text.dumps(value).decode()
        for name, value in options.items()
        if value is not None
    }


# --- Events ----------------------------------------------------------------------------------------------


def _event(kind: str, **members: Json) -> bytes:
    return b"data: %b\n\n" % orjson.dumps({"type": kind, **members})


def _custom(name: str, value: Json) -> bytes:
    return _event("CUSTOM", name=name, value=value)


def _ignored(reason: str) -> bytes:
    return _custom("refold.state_ignored", {"reason": reason})


def _refused(refused: Refused) -> bytes:
    """Show that the edits were not published, as the line of a bulk request does."""
    problem: Problem = problem_of(refused)
    return _custom("refold.rejected", {"status": "refused", "reason": problem.code, "error": problem.view()})
