"""An agent that keeps its state in Refold: what it sends, what its client folds, and what the document is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from typing import Any

import pytest
from ag_ui.core import (
    BaseEvent,
    CustomEvent,
    RunAgentInput,
    RunFinishedEvent,
    RunStartedEvent,
    StateDeltaEvent,
    StateSnapshotEvent,
    TextMessageChunkEvent,
)
from pydantic import BaseModel

from refold.client import Refold, apply_patch
from refold.client.agui import SharedState
from support.node import lacking
from support.system import System


class Client:
    """What a client of AG-UI has of a run."""

    def __init__(self) -> None:
        self.state: Any = None
        self.version = -1
        self.custom: list[tuple[str, Any]] = []
        self.kinds: list[str] = []

    def take(self, event: BaseEvent) -> None:
        wire = event.model_dump(mode="json", by_alias=True)
        self.kinds.append(wire["type"])
        match event:
            case StateSnapshotEvent():
                self.state = wire["snapshot"]
            case StateDeltaEvent():
                self.state = apply_patch(self.state, wire["delta"])
            case CustomEvent():
                self.custom.append((event.name, event.value))
        if wire.get("metadata"):
            self.version = wire["metadata"]["refold"]["version"]


@pytest.fixture
async def refold(system: System) -> AsyncIterator[Refold]:
    async with Refold(system.url) as client:
        yield client


def run_input(state: Any = ..., refold: Any = None) -> RunAgentInput:
    messages = [{"id": "1", "role": "user", "content": "Go on."}]
    given = {"threadId": "t", "runId": "run-1", "messages": messages, "forwardedProps": {"refold": refold}}
    return RunAgentInput.model_validate(given if state is ... else given | {"state": state})


async def agent(*events: BaseEvent) -> AsyncIterator[BaseEvent]:
    """Send events as a run."""
    yield RunStartedEvent(thread_id="t", run_id="run-1")
    for event in events:
        yield event
    yield RunFinishedEvent(thread_id="t", run_id="run-1")


def delta(*operations: dict[str, Any]) -> StateDeltaEvent:
    return StateDeltaEvent.model_validate({"delta": list(operations)})


async def test_what_an_agent_does_to_its_state_are_events_of_the_document(system: System, refold: Refold):
    namespace, client = system.namespace(), Client()
    await refold.put(namespace, "d", {"title": "one", "about": "x" * 100})
    async with SharedState(refold, namespace, "d", run_input(), actor="bot") as shared:
        assert shared.state["title"] == "one"
        events = (
            delta({"op": "add", "path": "/steps", "value": []}),
            delta({"op": "add", "path": "/steps/-", "value": "search"}),
            TextMessageChunkEvent(message_id="m", delta="I search"),
            StateSnapshotEvent(snapshot={"title": "two", "about": "x" * 100, "steps": ["search", "book"]}),
        )
        async for event in shared.run(agent(*events)):
            client.take(event)
    assert client.state == (await refold.get(namespace, "d")).state
    assert client.state == {"title": "two", "about": "x" * 100, "steps": ["search", "book"]}
    assert client.version == 4
    shown = [
        "RUN_STARTED",
        "STATE_SNAPSHOT",
        "STATE_DELTA",
        "STATE_DELTA",
        "TEXT_MESSAGE_CHUNK",
        "STATE_DELTA",
    ]
    assert client.kinds == [*shown, "RUN_FINISHED"]
    changes = [change async for change in refold.history(namespace, "d", after=1)]
    assert [change.id for change in changes] == ["run-1/1", "run-1/2", "run-1/3"]
    assert {(change.type, change.actor) for change in changes} == {("agui.state", "bot")}


async def test_changes_of_others_come_between_and_the_agent_means_what_it_has_seen(
    system: System, refold: Refold
):
    namespace, client, has_come = system.namespace(), Client(), asyncio.Event()
    await refold.put(namespace, "d", ["a", "b"])

    async def slow() -> AsyncIterator[BaseEvent]:
        yield RunStartedEvent(thread_id="t", run_id="run-1")
        await refold.patch(namespace, "d", [{"op": "add", "path": "/0", "value": "new"}])
        await has_come.wait()
        # The agent has not seen that: its second element is the third by now.
        yield delta(
            {"op": "replace", "path": "/1", "value": "B"}, {"op": "add", "path": "/0", "value": "first"}
        )
        yield delta({"op": "replace", "path": "/2", "value": "BB"})
        yield RunFinishedEvent(thread_id="t", run_id="run-1")

    async with SharedState(refold, namespace, "d", run_input()) as shared:
        async for event in shared.run(slow()):
            client.take(event)
            if client.state == ["new", "a", "b"]:
                has_come.set()
    assert client.state == (await refold.get(namespace, "d")).state
    assert sorted(client.state) == ["BB", "a", "first", "new"]
    assert client.state.index("BB") == 3


async def test_what_the_fold_does_not_take_is_told_and_the_run_goes_on(system: System, refold: Refold):
    namespace, client = system.namespace(), Client()
    await refold.put(namespace, "d", {"a": 1})
    events = (
        delta({"op": "replace", "path": "/missing/member", "value": 1}),
        delta({"op": "add", "path": "/b", "value": "x" * 2_000_000}),
        delta({"op": "add", "path": "/c", "value": 3}),
    )
    async with SharedState(refold, namespace, "d", run_input()) as shared:
        async for event in shared.run(agent(*events)):
            client.take(event)
        assert [outcome.reason for outcome in shared.rejected] == ["target_missing", "event_too_large"]
    assert [name for name, _ in client.custom] == ["refold.rejected"] * 2
    assert client.state == (await refold.get(namespace, "d")).state == {"a": 1, "c": 3}
    assert client.kinds[-1] == "RUN_FINISHED"


async def test_an_agent_that_reads_the_state_anew_goes_on_from_there(system: System, refold: Refold):
    namespace, client = system.namespace(), Client()
    await refold.put(namespace, "d", {"title": "one", "about": "x" * 100})
    async with SharedState(refold, namespace, "d", run_input(), on_conflict="reject") as shared:

        async def stubborn() -> AsyncIterator[BaseEvent]:
            yield RunStartedEvent(thread_id="t", run_id="run-1")
            await refold.merge(namespace, "d", {"title": "two", "more": True})
            yield delta({"op": "replace", "path": "/title", "value": "three"})
            yield StateSnapshotEvent(snapshot=shared.state | {"title": "three"})
            yield RunFinishedEvent(thread_id="t", run_id="run-1")

        async for event in shared.run(stubborn()):
            client.take(event)
        assert [outcome.reason for outcome in shared.rejected] == ["conflict"]
    assert client.state == (await refold.get(namespace, "d")).state
    assert client.state == {"title": "three", "about": "x" * 100, "more": True}


@pytest.mark.parametrize(
    ("posted", "options", "custom", "state"),
    [
        ({"a": 1, "b": 2}, {"base": 1}, [], {"a": 1, "b": 2, "other": True}),
        ({"a": 1, "b": 2, "_v": 1}, {"stamp": "_v"}, [], {"a": 1, "b": 2, "other": True, "_v": 3}),
        ({"a": 1, "b": 2}, {}, ["no_base"], {"a": 1, "other": True}),
        ({"a": 1, "b": 2}, {"base": 9}, ["base_unknown"], {"a": 1, "other": True}),
        ({}, {"base": 1}, ["empty_state"], {"a": 1, "other": True}),
        ({}, {"base": 1, "clear": True}, [], {"other": True}),
        ({"a": 5}, {"base": 1, "on_conflict": "reject"}, ["conflict"], {"a": 1, "other": True}),
        (..., {}, [], {"a": 1, "other": True}),
    ],
)
async def test_the_posted_state_is_taken_first(
    system: System,
    refold: Refold,
    monkeypatch: pytest.MonkeyPatch,
    posted: Any,
    options: Any,
    custom: Sequence[str],
    state: Any,
):
    monkeypatch.setattr("refold.client.agui.BASE_SECONDS", 0.05)
    namespace, client = system.namespace(), Client()
    await refold.put(namespace, "d", {"a": 1})
    await refold.merge(namespace, "d", {"other": True})
    async with SharedState(refold, namespace, "d", run_input(posted, options)) as shared:
        async for event in shared.run(agent()):
            client.take(event)
    assert [value["reason"] for _, value in client.custom] == custom
    assert client.state == state


async def test_an_error_of_the_agent_is_raised_where_the_run_is_read(system: System, refold: Refold):
    async def failing() -> AsyncIterator[BaseEvent]:
        yield RunStartedEvent(thread_id="t", run_id="run-1")
        raise LookupError

    async with SharedState(refold, system.namespace(), "d", run_input()) as shared:
        with pytest.raises(LookupError):
            [event async for event in shared.run(failing())]


async def test_an_agent_of_pydantic_ai_keeps_its_state_in_the_document(system: System, refold: Refold):
    """Its adapter, with the model that it has for tests."""
    namespace, client = system.namespace(), Client()
    await refold.put(namespace, "d", {"city": "Rome", "days": ["arrive"]})
    async with SharedState(refold, namespace, "d", run_input()) as shared:
        async for event in shared.run(trip_events(shared.run_input)):
            client.take(event)
    assert (
        client.state == (await refold.get(namespace, "d")).state == {"city": "Rome", "days": ["arrive", "a"]}
    )
    assert "TOOL_CALL_RESULT" in client.kinds
    (change,) = [change async for change in refold.history(namespace, "d", after=1)]
    assert change.patch == [{"op": "add", "path": "/days/1", "value": "a"}]


def trip_events(given: RunAgentInput) -> AsyncIterator[BaseEvent]:
    """Run an agent whose one tool adds a day to the trip."""
    if find_spec("pydantic_ai") is None:
        lacking("pydantic-ai-slim is not installed: pip install '.[dev]'")
    from pydantic_ai import Agent, RunContext, ToolReturn  # noqa: PLC0415 - its import takes a second
    from pydantic_ai.models.test import TestModel  # noqa: PLC0415
    from pydantic_ai.ui import StateDeps  # noqa: PLC0415
    from pydantic_ai.ui.ag_ui import AGUIAdapter  # noqa: PLC0415

    planner = Agent(TestModel(call_tools=["add_day"]), deps_type=StateDeps[Trip])

    def add_day(context: RunContext[StateDeps[Trip]], day: str) -> ToolReturn:
        state = context.deps.state
        state.days.append(day)
        return ToolReturn("added", metadata=[StateSnapshotEvent(snapshot=state.model_dump())])

    add_day.__annotations__ = {"context": RunContext[StateDeps[Trip]], "day": str, "return": ToolReturn}
    planner.tool(add_day)
    events: AsyncIterator[BaseEvent] = AGUIAdapter(planner, given).run_stream(deps=StateDeps(Trip()))
    return events


class Trip(BaseModel):
    """The state of the agent of pydantic-ai."""

    city: str = ""
    days: list[str] = []
