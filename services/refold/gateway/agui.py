"""The route of AG-UI: a document as the shared state of an agent. Part of `refold.gateway.app`.

A run takes the state that the client has, as one event with its base, and answers with the document's state; where it
is asked to, it then follows the document (`refold.live`), until the client has enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from typing import Annotated, Final

import orjson
from pydantic import Field
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from refold.core import json_text
from refold.core.agui import (
    EVENT_TYPE,
    NOTHING,
    STAMP_PATTERN,
    RunInput,
    add_stamp,
    find_edits,
    make_delta,
    read_posted,
    read_run_input,
    run_event_id,
    whole_state,
)
from refold.core.document import ABSENT
from refold.core.errors import RefoldError, Refused, TimedOut, VersionUnknown
from refold.core.history import NEVER, Clock, Point, Snapshot
from refold.core.json_text import Json
from refold.core.stream import check_document, check_namespace
from refold.gateway.conditions import ANYTHING
from refold.gateway.context import context_of
from refold.gateway.drafts import Draft, check
from refold.gateway.inflight import deadline_in, waiting
from refold.gateway.live.requests import EVENT_STREAM
from refold.gateway.live.routes import admit
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
    seconds,
    unrepeated,
    whole_number,
)
from refold.gateway.responses import JSON, Problem, Response, problem_of
from refold.gateway.writes import wait_until_folded, write
from refold.history import THREADED_BYTES
from refold.live import INTERVALS, Frame, Mailbox, Mode, Subscription
from refold.store import Key

INPUT_BYTES_MAX: Final = 9 * 1024 * 1024
"""Body of a run: a state of the largest size, with messages beside it."""

FOLLOW_SECONDS_MAX: Final = 24 * 60 * 60
"""The longest that a run may ask to follow; it ends at the age of a live stream before that."""

INTERVAL_MILLISECONDS: Final = 100
"""Between two deltas, by default: a client clones its whole state for each."""

PROTOCOL_VERSION: Final = "1.0"
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_FIELDS: Final = frozenset({"actor", "meta"})


FollowSeconds = Annotated[float, seconds(FOLLOW_SECONDS_MAX)]
Interval = Annotated[int, whole_number(0, INTERVALS[-1])]


class RunOptions(NoQuery):
    """What a run does: in the query string, or in `forwardedProps.refold`, which takes precedence."""

    base: Version | None = None
    stamp: str | None = Field(None, pattern=STAMP_PATTERN)
    clear: bool = False
    on_conflict: str | None = None
    follow: bool = False
    seconds: FollowSeconds | None = None
    interval: Interval = INTERVAL_MILLISECONDS


async def run_document(request: Request) -> Response:
    """Take the client's edits in, and answer with the state; then follow the document, where that is asked for."""
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
    begun = await run.begin(fields)
    if options.follow:
        return _Following(run, begun)
    return Response(begun + await run.finish(), 200, _HEADERS, EVENT_STREAM)


class _Following(Response):
    """A run that follows its document. It holds no permit for requests in work."""

    def __init__(self, run: _Run, begun: bytes) -> None:
        super().__init__(None, 200, _HEADERS, EVENT_STREAM)
        self._run = run
        self._begun = begun
        self.has_started = False

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come, until the run ends or the client disconnects."""
        mailbox = Mailbox()
        async with waiting(), self._run.subscribed(mailbox):
            leaving = asyncio.create_task(_wait_for_disconnect(receive), name="agui-disconnect")
            leaving.add_done_callback(lambda _: mailbox.end())
            try:
                headers = [each for each in self.raw_headers if each[0] != b"content-length"]
                await send({"type": "http.response.start", "status": self.status, "headers": headers})
                self.has_started = True
                body = self._begun
                async with aclosing(self._run.follow(mailbox)) as events:
                    async for event in events:
                        await send({"type": "http.response.body", "body": body + event, "more_body": True})
                        body = b""
                await send({"type": "http.response.body", "body": body})
            finally:
                leaving.cancel()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Run:
    """One run of a client on a document."""

    def __init__(self, request: Request, key: Key, given: RunInput, options: RunOptions) -> None:
        self._request = request
        self._context = context_of(request)
        self._key = key
        self._given = given
        self._options = options
        self._of_run = {"threadId": given.thread_id, "runId": given.run_id}
        self._subscription = Subscription(
            namespace=key[0], document=key[1], mode=Mode.patch, interval=options.interval
        )
        self._client = admit(request, [self._subscription])
        self._position: dict[str, Json] = {}
        self._has_stamp = False

    async def begin(self, fields: dict[str, Json]) -> bytes:
        """Take the posted state in. Raises what refuses the run, before anything is written where that is possible."""
        if self._options.stamp is not None:
            self._stamped(await self._head())
        events = [_event("RUN_STARTED", **self._of_run, protocolVersion=PROTOCOL_VERSION)]
        return b"".join(events + await self._take_state(fields))

    async def finish(self) -> bytes:
        """Return the rest of a run that does not follow: the state at the head."""
        return self._snapshot(await self._head()) + self._finished("current")

    async def _head(self) -> Snapshot:
        context = self._context
        deadline = deadline_in(context.wait_seconds)
        await context.readiness.wait(deadline)
        await context.consistency.wait_for_announced(deadline, *self._key)
        head = await context.store.head(*self._key)
        return NEVER if head is None else head.snapshot

    # --- What is sent ------------------------------------------------------------------------------------

    def _snapshot(self, at: Snapshot) -> bytes:
        about = self._note(at.version, at.sequence)
        if at.state is None:
            about["absent"] = True
        return _event("STATE_SNAPSHOT", snapshot=self._stamped(at), metadata={"refold": about})

    def _stamped(self, at: Snapshot) -> Json:
        state = b"{}" if at.state is None else at.state
        self._has_stamp = self._options.stamp is not None and state.startswith(b"{")
        if not self._has_stamp:
            return orjson.Fragment(state)
        return add_stamp(json_text.reread(state), self._options.stamp, at.version)

    def _delta(self, version: int, sequence: int, patch: list[Json]) -> bytes | None:
        """Return a change as a delta; None where the client needs a snapshot. Raises `StampTaken`."""
        stamp = self._options.stamp if self._has_stamp else None
        delta = make_delta(patch, stamp)
        if delta is None:
            return None
        if stamp is not None:
            delta.append({"op": "replace", "path": f"/{stamp}", "value": version})
        return _event("STATE_DELTA", delta=delta, metadata={"refold": self._note(version, sequence)})

    def _finished(self, why: str) -> bytes:
        result = {**self._position, "why": why}
        return _event("RUN_FINISHED", **self._of_run, result=result, outcome={"type": "success"})

    def _note(self, version: int, sequence: int) -> dict[str, Json]:
        self._position = {"version": version, "sequence": sequence}
        return dict(self._position)

    # --- Following ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def subscribed(self, mailbox: Mailbox) -> AsyncIterator[None]:
        """Send the document's changes to a mailbox. Raises `LiveFull`."""
        context = self._context
        connection = context.live_connections.enter("agui", self._client)
        with closing(connection), closing(await context.live.open([self._subscription], mailbox)):
            yield

    async def follow(self, mailbox: Mailbox) -> AsyncGenerator[bytes, None]:
        """Yield the events of a run that follows, the state first."""
        deadline = None if self._options.seconds is None else deadline_in(self._options.seconds)
        try:
            # The first is the state, however short the run is to be.
            held = await mailbox.next()
            while held is not None:
                yield await self._event_of(held[0])
                is_over = deadline is not None and deadline_in(0) >= deadline
                held = None if is_over else await mailbox.next(deadline)
            # A stream ends without a word to a client that has not taken the event before.
            yield self._finished("ended" if mailbox.is_ended else "seconds")
        except _Ended as ended:
            yield self._finished(ended.why)
        except (RefoldError, Problem) as error:
            problem = problem_of(error)
            yield _event("RUN_ERROR", message=problem.detail, code=problem.code)

    async def _event_of(self, frame: Frame) -> bytes:
        """Return the event for a message. Raises `_Ended` after the last one, and what ends the run with an error."""
        if frame.kind == "alive":
            return b": alive\n\n"
        message = json_text.reread(frame.body)
        if frame.kind == "bye" and message["reason"] in _ENDS:
            raise _Ended(message["reason"])
        if frame.kind in {"bye", "error"}:
            code = message.get("code") or message["reason"]
            raise Problem(503, code, message.get("detail") or f"the gateway has ended the stream: {code}")
        version, sequence = message["version"], message["sequence"]
        if frame.kind == "change":
            delta = self._delta(version, sequence, message["patch"])
            if delta is not None:
                return delta
            state = whole_state(message["patch"])
            if state is NOTHING:
                return self._snapshot(await self._at(version))
        else:
            state = message.get("state", ABSENT)
        written = None if state is ABSENT else json_text.dumps(state)
        return self._snapshot(NEVER._replace(version=version, sequence=sequence, state=written))

    async def _at(self, version: int) -> Snapshot:
        await self._context.consistency.wait_for_version(
            self._key, version, deadline_in(self._context.wait_seconds)
        )
        return await self._context.history.snapshot(*self._key, Point(Clock.version, version))

    # --- The posted state --------------------------------------------------------------------------------

    async def _take_state(self, fields: dict[str, Json]) -> list[bytes]:
        """Write the edits that the posted state has; return what the client must know of it."""
        given, options = self._given, self._options
        if given.state is NOTHING:
            return []
        posted = read_posted(given.state, base=options.base, stamp=options.stamp)
        if posted.base is None:
            return [] if posted.state == {} else [_ignored("no_base")]
        if given.refusal is not None:
            return [_refused(given.refusal)]
        base = await self._state_at(posted.base)
        if base is NOTHING:
            return [_ignored("base_unknown")]
        if posted.state == {} != base and not options.clear:
            # A client that has folded nothing posts this, whatever it knows.
            return [_ignored("empty_state")]
        edits = await _find_edits(base, posted.state)
        return await self._write(fields, edits, posted.base) if edits else []

    async def _state_at(self, version: int) -> Json:
        """Return the state at a version, `{}` where the document was absent; `NOTHING` for an unknown version."""
        if version == 0:
            return {}
        deadline = deadline_in(self._context.wait_seconds)
        await wait_until_folded(self._context, self._key, version, deadline)
        try:
            found = await self._context.history.snapshot(*self._key, Point(Clock.version, version))
        except VersionUnknown:
            return NOTHING
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
        own = {
            "patch": edits,
            "base": base,
            "id": run_event_id(self._given.thread_id, self._given.run_id),
            "type": EVENT_TYPE,
        }
        if self._options.on_conflict is not None:
            own["on_conflict"] = self._options.on_conflict
        fields = {"correlation_id": self._given.thread_id, **fields, **own}
        headers = (*carried_headers(self._request), ("Refold-Reply", self._context.reply_subject))
        return Draft(key=self._key, fields=fields, headers=headers, has_own_id=True)


class _Ended(Exception):
    """The run ends as it should, and may be followed by another one."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


_ENDS: Final = frozenset({"age", "shutdown"})


async def _find_edits(base: Json, state: Json) -> list[Json]:
    if json_text.size(base) + json_text.size(state) <= THREADED_BYTES:
        return find_edits(base, state)
    return await asyncio.to_thread(find_edits, base, state)


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
