"""A state over 1 MiB can be read, written back, exported and imported, although no event of it may be so large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from refold.client import Refold
from refold.core import json_text
from refold.core.fold import EVENT_BYTES_MAX, STATE_BYTES_MAX
from refold.transfer.exporter import ExportListener, export
from refold.transfer.importer import ImportListener, import_file
from support.http import Api, outcome, problem

ROW_BYTES = 300_000


def rows(count: int, mark: str = "x") -> dict[str, Any]:
    return {"rows": [{"at": at, "text": mark * ROW_BYTES} for at in range(count)], "about": {"rows": count}}


LARGE = rows(10)
"""About 3 MB."""


async def grown(api: Api, document: str) -> dict[str, Any]:
    """Create a document by patches, and return its state."""
    outcome(await api.put(document, {"rows": []}), 201)
    for at in range(10):
        added = {"op": "add", "path": "/rows/-", "value": LARGE["rows"][at]}
        outcome(await api.patch(document, added))
    state = (await api.get(document)).json()
    assert json_text.size(state) > 2 * EVENT_BYTES_MAX
    return dict(state)


async def test_a_state_that_was_read_can_be_written(api: Api) -> None:
    state = await grown(api, "grown")
    written = outcome(await api.put("copy", state), 201)
    answer = await api.get("copy")
    assert answer.content == (await api.get("grown")).content
    assert answer.headers["ETag"] == f'"{written["version"]}"'
    assert written["version"] > 1
    changes = (await api.get("copy/history")).json()["items"]
    assert [change["version"] for change in changes] == list(range(1, written["version"] + 1))
    assert len({change["sequence"] for change in changes}) == len(changes)
    # Written over the existing document: versions continue.
    again = outcome(await api.put("copy", rows(9, "y")))
    assert again["version"] > written["version"]
    assert (await api.get("copy")).json() == rows(9, "y")
    assert (await api.get("copy", version=written["version"])).json() == state


async def test_a_condition_holds_for_the_whole_write(api: Api) -> None:
    first = outcome(await api.put("d", LARGE, If_None_Match="*"), 201)
    events = await api.events()
    problem(await api.put("d", rows(8), If_None_Match="*"), 412, "precondition_failed")
    refused = problem(await api.put("d", rows(8), If_Match='"1"'), 412, "precondition_failed")
    assert refused["version"] == first["version"]
    assert await api.events() == events, "the log stays clean"
    outcome(await api.put("d", rows(8), If_Match=f'"{first["version"]}"'))
    assert (await api.get("d")).json() == rows(8)
    problem(await api.put("d", LARGE, Refold_Base="1"), 422, "contradictory")


async def test_a_repeated_large_state_is_a_duplicate(api: Api) -> None:
    first = outcome(await api.put("d", LARGE, Idempotency_Key="once"), 201)
    events = await api.events()
    again = outcome(await api.put("d", LARGE, Idempotency_Key="once"), 201)
    assert again["status"] == "duplicate"
    assert again["first"]["version"] == first["version"]
    assert await api.events() == events
    assert (await api.get("d/outcomes", id="once")).json()["version"] == first["version"]
    used = problem(await api.put("d", rows(9), Idempotency_Key="once"), 409, "rejected")
    assert used["reason"] == "id_reused"
    assert await api.events() == events


async def test_a_state_over_the_limit_is_refused_with_its_size_and_the_limit(api: Api) -> None:
    state = {"a": "x" * 900_000, "b": ["y" * 900_000 for _ in range(8)], "c": ""}
    state["c"] = "z" * (STATE_BYTES_MAX - json_text.size(state))
    written = outcome(await api.put("d", state), 201)
    assert (await api.get("d")).content == json_text.dumps(state)
    state["c"] += "z"
    view = problem(await api.put("d", state), 413, "state_too_large")
    assert str(STATE_BYTES_MAX) in view["detail"]
    assert str(STATE_BYTES_MAX + 1) in view["detail"]
    assert (await api.get("d")).headers["ETag"] == f'"{written["version"]}"'
    patch = [{"op": "add", "path": "", "value": "x" * EVENT_BYTES_MAX}]
    problem(await api.patch("d", *patch), 413, "event_too_large")


@pytest.mark.parametrize("is_history", [False, True], ids=["states", "history"])
async def test_a_large_state_survives_export_and_import(
    api: Api, tmp_path: Path, *, is_history: bool
) -> None:
    state = await grown(api, "grown")
    outcome(await api.put("small", {"a": 1}), 201)
    path, back = tmp_path / "out.jsonl", f"{api.namespace}-back"
    async with Refold(str(api.client.base_url)) as refold:
        with path.open("wb") as file:

            async def write(lines: bytes) -> None:
                file.write(lines)

            listener = ExportListener(progress=lambda _: None, waiting=lambda _: None)
            await export(refold, api.namespace, write, listener, is_history=is_history)
        if not is_history:
            # Another line of the document after the large one, and a repeated run.
            line = {"doc": "grown", "state": {**state, "more": 1}, "ts": "2020-01-01T00:00:00Z"}
            path.write_bytes(path.read_bytes() + orjson.dumps(line) + b"\n")
            state["more"] = 1
        refused: list[Any] = []
        listener = ImportListener(
            refused=lambda *why: refused.append(why), progress=lambda _: None, waiting=lambda _: None
        )
        await import_file(refold, back, path, listener)
        again = await import_file(refold, back, path, listener)
        assert refused == []
        assert again.events == 0
        found = await refold.get(back, "grown")
        assert json_text.dumps(found.state) == json_text.dumps(state)
        assert (await refold.get(back, "small")).state == {"a": 1}
        if is_history:
            assert found.version == (await refold.get(api.namespace, "grown")).version


async def test_an_exported_line_too_large_for_one_event_is_refused(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"doc": "d", "state": LARGE, "ts": 1, "version": 1}) + "\n")
    refused: list[Any] = []
    async with Refold(str(api.client.base_url)) as refold:
        listener = ImportListener(
            refused=lambda *why: refused.append(why), progress=lambda _: None, waiting=lambda _: None
        )
        await import_file(refold, api.namespace, path, listener)
    ((number, why),) = refused
    assert (number, why.reason) == (1, "version_differs")
    assert "is written as 6 events" in str(why)
