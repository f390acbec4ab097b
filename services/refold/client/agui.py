"""An agent of AG-UI that keeps its state in Refold: `SharedState`. Needs the extra `refold[agui]`.

What the agent does to its state are events of the document; what its client folds is the document.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict
from typing import Final, NamedTuple, Self

from ag_ui.core import BaseEvent, CustomEvent, EventType, RunAgentInput, StateDeltaEvent, StateSnapshotEvent

from refold.client.client import Refold
from refold.client.requests import WriteOptions, json_bytes
from refold.client.responses import REFUSED, DocumentUpdate, Outcome, Patch, apply_patch
from refold.core import json_text
from refold.core.agui import (
    EVENT_TYPE,
    Posted,
    add_stamp,
    bounded_id,
    find_edits,
    make_delta,
    read_posted,
    run_event_id,
)
from refold.core.diff import diff
from refold.core.errors import DocumentAbsent, Refused, ServiceUnavailable, TimedOut, VersionUnknown
from refold.core.json_text import Json

QUEUE_MAX: Final = 16
"""Updates of the document that wait for the run's reader; after that, the service merges them."""

BASE_SECONDS: Final = 2.0
"""How long the version that a posted state was made from is waited for."""


class _Seen(NamedTuple):
    """What the agent has of the document: the state at a version, and what it did to it since."""

    version: int
    state: Json


class _Ended(NamedTuple):
    """The agent's events have ended, or the document's updates, which never end without an error."""

    error: Exception | None


class SharedState(AbstractAsyncContextManager["SharedState"]):
    """A document as the state of an agent's run.

    ```python
    async with SharedState(refold, "acme", "trip-7", run_input) as shared:
        async for event in shared.run(agent_events(run_input, shared.state)):
            yield encoder.encode(event)
    ```

    The client's posted state is taken first, as `POST /agui/{namespace}/{document}` takes it, with the options in
    `forwardedProps.refold`. The agent's deltas and snapshots are events of the session of its run: they mean the state
    that it read last and what it did since. A snapshot is the whole state: what it leaves out is removed.
    `rejected` has the outcomes of what the fold did not take; the client is sent them, and the state.
    """

    def __init__(
        self,
        refold: Refold,
        namespace: str,
        document: str,
        run_input: RunAgentInput,
        *,
        stamp: str | None = None,
        on_conflict: str | None = None,
        actor: str | None = None,
    ) -> None:
        """`stamp` names the member by which states carry their version. `actor` is the author of the agent's events."""
        self.rejected: list[Outcome] = []
        self._refold = refold
        self._key = namespace, document
        self._input = run_input
        self._given = _options_of(run_input)
        self._stamp: str | None = self._given.get("stamp", stamp)
        self._options: WriteOptions = {"type": EVENT_TYPE, "correlation_id": run_input.thread_id}
        if (strategy := self._given.get("on_conflict", on_conflict)) is not None:
            self._options["on_conflict"] = strategy
        self._agent: WriteOptions = {**self._options, "session": bounded_id(run_input.run_id)}
        if actor is not None:
            self._agent["actor"] = actor
        self._count = 0
        self._queue: asyncio.Queue[DocumentUpdate | BaseEvent | _Ended] = asyncio.Queue(QUEUE_MAX)
        self._tasks: list[asyncio.Task[None]] = []
        self._told: list[CustomEvent] = []
        self._is_shown = False
        self._has_answered = asyncio.Event()
        self._seen = _Seen(0, {})
        self._head = DocumentUpdate(namespace=namespace, document=document, version=0, is_absent=True)

    async def __aenter__(self) -> Self:
        self._told = await self._take_posted()
        self._start(self._read_updates())
        try:
            await self._next_update()
        except BaseException:
            await self.__aexit__()
            raise
        self._seen = _Seen(self._head.version, _copied(self._state))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def state(self) -> Json:
        """A copy of the document's state now. What the agent sends after that is taken as made from it."""
        state = _copied(self._state)
        self._seen = _Seen(self._head.version, state)
        return _copied(state)

    @property
    def run_input(self) -> RunAgentInput:
        """The run's input with the document's state now, for a framework that takes the state from there."""
        return self._input.model_copy(update={"state": self.state})

    async def run(self, events: AsyncIterable[BaseEvent]) -> AsyncGenerator[BaseEvent, None]:
        """Yield the agent's events, with the changes of the document in place of those of its state.

        The agent goes on when what it sent is folded and read. After the start of the run comes the state.
        """
        self._start(self._read_agent(events))
        while not isinstance(item := await self._queue.get(), _Ended):
            if isinstance(item, DocumentUpdate):
                for event in self._take(item):
                    yield event
            else:
                async for event in self._answers(item):
                    yield event
                self._has_answered.set()
        if item.error is not None:
            raise item.error

    # --- The agent's events, and the document's updates --------------------------------------------------

    def _start(self, reading: Coroutine[None, None, None]) -> None:
        """Read a source in a task of its own: a generator may depend on the task that it is in."""
        self._tasks.append(asyncio.create_task(reading, name="agui-shared-state"))

    async def _read_agent(self, events: AsyncIterable[BaseEvent]) -> None:
        error: Exception | None = None
        try:
            async for event in events:
                self._has_answered.clear()
                await self._queue.put(event)
                await self._has_answered.wait()
        except Exception as raised:  # noqa: BLE001 - it is raised where the run is read
            error = raised
        await self._queue.put(_Ended(error))

    async def _read_updates(self) -> None:
        error: Exception = ServiceUnavailable("the client of the service was closed")
        try:
            async for update in self._refold.watch(*self._key):
                await self._queue.put(update)
        except Exception as raised:  # noqa: BLE001 - as above
            error = raised
        await self._queue.put(_Ended(error))

    async def _answers(self, item: BaseEvent) -> AsyncIterator[BaseEvent]:
        """Yield what an event of the agent becomes."""
        if isinstance(item, StateDeltaEvent):
            async for event in self._publish(item.model_dump(mode="json", by_alias=True)["delta"]):
                yield event
        elif isinstance(item, StateSnapshotEvent):
            async for event in self._publish(find_edits(self._seen.state, _copied(item.snapshot))):
                yield event
        elif item.type == EventType.RUN_STARTED:
            self._is_shown = True
            for event in (item, *self._told, self._snapshot()):
                yield event
        elif item.type == EventType.RUN_FINISHED:
            yield item.model_copy(update={"metadata": {**(item.metadata or {}), **self._metadata()}})
        else:
            yield item

    async def _next_update(self) -> list[BaseEvent]:
        """Wait for an update of the document; return what shows it. The agent waits meanwhile."""
        item = await self._queue.get()
        if isinstance(item, _Ended) and item.error is not None:
            raise item.error
        assert isinstance(item, DocumentUpdate)
        return self._take(item)

    # --- What the agent writes ---------------------------------------------------------------------------

    async def _publish(self, patch: Patch) -> AsyncIterator[BaseEvent]:
        """Publish a change of the agent; yield what came of it, and of others until then."""
        if not patch:
            return
        outcome = await self._write(patch)
        # A rejection was decided at that version, too.
        while self._head.version < (outcome.version or 0):
            for event in await self._next_update():
                yield event
        if outcome.status != REFUSED:
            self._note_seen(patch, outcome)
        if not outcome.is_effective:
            self.rejected.append(outcome)
            yield _custom("refold.rejected", outcome)
            yield self._snapshot()
        elif outcome.dropped:
            yield _custom("refold.merged", outcome)

    async def _write(self, patch: Patch) -> Outcome:
        self._count += 1
        event_id = bounded_id(f"{self._input.run_id}/{self._count}")
        options: WriteOptions = {**self._agent, "id": event_id, "base": self._seen.version}
        try:
            outcome = await self._refold.patch(*self._key, patch, **options)
        except Refused as refused:
            return Outcome(status=REFUSED, reason=refused.reason, detail=str(refused))
        if outcome.version is None:
            raise TimedOut("the agent's event is in the log and not folded in time", id=event_id)
        return outcome

    def _note_seen(self, patch: Patch, outcome: Outcome) -> None:
        """Note what the agent did to its own state: also what was rejected, which its session still sees."""
        is_next = outcome.version == self._seen.version + 1 == self._head.version
        if is_next and outcome.status == "applied" and not self.rejected:
            # There was no other write: its state is the document's.
            self._seen = _Seen(self._head.version, _copied(self._state))
            return
        with suppress(Refused):
            self._seen = self._seen._replace(state=apply_patch(self._seen.state, patch))

    async def _take_posted(self) -> list[CustomEvent]:
        """Write the edits of the client's state; return what it must know of it."""
        if "state" not in self._input.model_fields_set:
            return []
        posted = read_posted(self._input.state, base=self._given.get("base"), stamp=self._stamp)
        if posted.base is None:
            return [] if posted.state == {} else [_ignored("no_base")]
        try:
            base = await self._state_at(posted.base)
        except (TimedOut, VersionUnknown):
            return [_ignored("base_unknown")]
        if posted.state == {} != base and not self._given.get("clear", False):
            return [_ignored("empty_state")]
        return await self._write_posted(posted, base)

    async def _write_posted(self, posted: Posted, base: Json) -> list[CustomEvent]:
        edits = find_edits(base, posted.state)
        if not edits:
            return []
        assert posted.base is not None
        event_id = run_event_id(self._input.thread_id, self._input.run_id)
        options: WriteOptions = {**self._options, "id": event_id, "base": posted.base}
        try:
            outcome = await self._refold.patch(*self._key, edits, **options)
        except Refused as refused:
            outcome = Outcome(status=REFUSED, reason=refused.reason, detail=str(refused))
        if not outcome.is_effective:
            return [_custom("refold.rejected", outcome)]
        return [_custom("refold.merged", outcome)] if outcome.dropped else []

    async def _state_at(self, version: int) -> Json:
        if version == 0:
            return {}
        try:
            found = await self._refold.get(
                *self._key, version=version, min_version=version, timeout_seconds=BASE_SECONDS
            )
        except DocumentAbsent:
            return {}
        return found.state

    # --- What the client is sent -------------------------------------------------------------------------

    @property
    def _state(self) -> Json:
        return {} if self._head.is_absent else self._head.state

    def _take(self, update: DocumentUpdate) -> list[BaseEvent]:
        """Take an update; return what shows it, once the client has the state."""
        before, self._head = self._state, update
        if not self._is_shown:
            return []
        stamp = self._stamp if type(before) is dict else None
        delta = make_delta(update.patch, stamp) if update.patch else None
        if delta is None and not update.is_absent:
            # An operation that is not of RFC 6902, for one.
            delta = make_delta(diff(before, self._state), stamp)
        if delta is None:
            return [self._snapshot()]
        if stamp is not None:
            delta.append({"op": "replace", "path": f"/{stamp}", "value": update.version})
        return [StateDeltaEvent(delta=delta, metadata=self._metadata())]

    def _snapshot(self) -> StateSnapshotEvent:
        state = add_stamp(self._state, self._stamp, self._head.version)
        return StateSnapshotEvent(snapshot=state, metadata=self._metadata())

    def _metadata(self) -> dict[str, Json]:
        about: dict[str, Json] = {"version": self._head.version, "sequence": self._head.sequence}
        return {"refold": about | ({"absent": True} if self._head.is_absent else {})}


def _options_of(run_input: RunAgentInput) -> dict[str, Json]:
    """Return the options that the client has sent. Raises `Refused` for one of another kind."""
    properties = run_input.forwarded_props
    given = properties.get("refold") if isinstance(properties, dict) else None
    options: dict[str, Json] = {name: it for name, it in (given or {}).items() if it is not None}
    for name, kind in _OPTIONS.items():
        if name in options and type(options[name]) is not kind:
            rule, shape = f"must be of the type {kind.__name__}", json_text.shape_of(options[name])
            raise Refused("bad_parameter", rule, field=f"forwardedProps.refold.{name}", shape=shape)
    return options


_OPTIONS: Final = {"base": int, "stamp": str, "clear": bool, "on_conflict": str}


def _copied(value: Json) -> Json:
    return json_text.reread(json_bytes(value))


def _custom(name: str, outcome: Outcome) -> CustomEvent:
    return CustomEvent(
        name=name, value={name: it for name, it in asdict(outcome).items() if it not in (None, "", ())}
    )


def _ignored(reason: str) -> CustomEvent:
    return CustomEvent(name="refold.state_ignored", value={"reason": reason})
