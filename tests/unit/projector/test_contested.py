"""The notice of a conflict that a resolver decides on: its states, and what is left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest

from refold.core.errors import LogHole, LogUnavailable, RefoldError, StoreUnavailable
from refold.core.history import Clock, Point, Segment
from refold.history.conflicts import Conflicts
from refold.log.memory import MemoryLog, MemoryNotices
from refold.projector import contested
from refold.store.memory import MemoryStore
from support.contracts import contract, validator
from support.projection import DEADLINE_SECONDS, append, ports, projecting

CUSTOM = "custom:cart"


async def noticed(*events: Any, store: MemoryStore | None = None) -> tuple[list[dict[str, Any]], MemoryStore]:
    """Publish events to one document, and return the notices of its conflicts, and the store."""
    log, notices, store = MemoryLog("log-1"), MemoryNotices(), store or MemoryStore()
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await notices.listen("conflict.n.a%2Fd", lambda _, body: received.put_nowait(orjson.loads(body)))
    async with projecting(ports(log, store, notices)) as running:
        sequence = [await append(log, "a/d", event) for event in events][-1]
        await running.committed(sequence)
        async with asyncio.timeout(DEADLINE_SECONDS):
            found = [await received.get() for event in events if event.get("on_conflict") == CUSTOM]
    is_notice = validator(contract("conflict.schema.json"))
    for notice in found:
        is_notice.validate(notice)
    return found, store


def patched(path: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {"patch": [{"op": "add", "path": path, "value": value}], **fields}


def custom(event: dict[str, Any], base: int, **fields: Any) -> dict[str, Any]:
    return {**event, "base": base, "on_conflict": CUSTOM, **fields}


async def test_a_notice_has_the_states_at_the_base_at_the_head_and_of_the_event() -> None:
    mine = custom(patched("/mine", 1), 1, actor="ada", id="e", type="t")
    ((notice,), store) = await noticed({"put": {"a": 1}}, patched("/other", 2), mine)
    assert notice["states"] == {
        "base": {"a": 1},
        "head": {"a": 1, "other": 2},
        "incoming": {"a": 1, "mine": 1},
    }
    assert (notice["base"], notice["head"], notice["sequence"]) == (1, 2, 4)
    assert (notice["actor"], notice["id"], notice["type"]) == ("ada", "e", "t")
    assert (notice["strategy"], notice["event"]) == (CUSTOM, {"patch": mine["patch"]})
    answered = await Conflicts(store).one(("n", "a/d"), 4)
    assert answered is not None
    assert orjson.loads(orjson.dumps(answered)) | notice == orjson.loads(orjson.dumps(answered))


async def test_the_incoming_state_has_what_the_session_had_in_flight() -> None:
    events = [
        {"put": {"l": [1, 2]}},
        patched("/l/0", 0),
        patched("/l/-", 3, base=1, session="s"),
        custom(patched("/l/3", 4), 1, session="s"),
        custom({"merge": {"m": 1}}, 1, session="s"),
        custom({"delete": True}, 1),
    ]
    notices, _ = await noticed(*events)
    assert [notice["states"].get("incoming") for notice in notices] == [
        {"l": [1, 2, 3, 4]},
        {"l": [1, 2, 3, 4], "m": 1},
        None,
    ]
    assert {orjson.dumps(notice["states"]["head"]) for notice in notices} == {b'{"l":[0,1,2,3]}'}


async def test_an_event_in_flight_with_an_older_base_does_what_its_author_saw() -> None:
    events = [
        {"put": {"l": [1, 2, 3]}},
        patched("/l/0", 0),
        {"patch": [{"op": "remove", "path": "/l/2"}], "base": 1, "session": "s"},
        patched("/other", 1),
        custom(patched("/mine", 1), 2, session="s"),
    ]
    ((notice,), _) = await noticed(*events)
    assert notice["states"]["base"] == {"l": [0, 1, 2, 3]}
    assert notice["states"]["incoming"] == {"l": [0, 1, 2], "mine": 1}


async def test_the_state_of_an_absent_document_is_left_out() -> None:
    notices, _ = await noticed({"put": 1}, {"delete": True}, custom({"put": 2}, 0), custom({"put": 2}, 1))
    assert [notice["states"] for notice in notices] == [{"incoming": 2}, {"base": 1, "incoming": 2}]


async def test_a_notice_that_is_too_large_or_does_not_apply_to_its_base_has_no_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ((notice,), _) = await noticed({"put": {}}, {"put": {}}, custom(patched("/a/b", 1), 1))
    assert notice["states"] is None
    monkeypatch.setattr(contested, "NOTICE_BYTES_MAX", 700)
    events = [{"put": {"a": "x" * 200}}, {"put": {"a": "x" * 200}}, custom(patched("/b", 1), 1)]
    ((notice,), store) = await noticed(*events)
    assert notice["states"] is None
    assert (await store.snapshot_at("n", "a/d", Point(Clock.version, notice["head"]))) is not None


@pytest.mark.parametrize("error", [StoreUnavailable(), LogUnavailable(), LogHole()])
async def test_a_notice_whose_states_cannot_be_read_has_none_and_the_fold_goes_on(error: RefoldError) -> None:
    """A store of recent depth reads older history from the log."""

    class Unread(MemoryStore):
        async def segments(self, *_: Any, **__: Any) -> AsyncGenerator[Segment]:
            raise error
            yield

    events = [{"put": {}}, patched("/other", 2), custom(patched("/mine", 1), 1), {"put": 2}]
    ((notice,), _) = await noticed(*events, store=Unread())
    assert notice["states"] is None
