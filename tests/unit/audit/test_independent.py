"""The second opinion: it agrees with the fold about every recorded log, and finds a state or version that is wrong."""

from __future__ import annotations

import pytest

from refold.audit.independent import EXTENDED, MERGES, PATCHES, REFUSED, REPEATED, RESOLVED, WHOLE, Coverage
from refold.audit.verify import Listener, Scope, verify
from refold.core.document import Status
from refold.log.memory import MemoryLog
from refold.store.memory import MemoryStore, Tables
from support.projection import append, ports, projecting
from support.recorded import DATA, recorded_log

LOGS = sorted(DATA.glob("fold*/*.jsonl"))


async def folded(log):
    """Project a log to memory; return the tables and a store over them."""
    tables = Tables()
    store = MemoryStore(tables)
    async with projecting(ports(log, store)) as running:
        await running.committed((await log.info()).last_sequence)
    return tables, store


async def judged(log, store):
    """Verify independently; return what was judged, and the differences."""
    found, coverage = [], Coverage()
    listener = Listener(difference=found.append, progress=lambda _: None)
    await verify(log, store, listener, Scope(), coverage)
    return coverage, found


@pytest.mark.parametrize("path", LOGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_it_agrees_with_the_fold_about_a_recorded_log(path):
    recorded = recorded_log(path)
    log = MemoryLog(recorded.log_id)
    log._records = list(recorded.records)
    _, store = await folded(log)
    coverage, found = await judged(log, store)
    assert found == []
    assert coverage.total() > len(recorded.records) / 2


EVENTS = (
    {"put": {"n": 1, "text": "é𝄞", "list": [1]}, "id": "first"},
    {"merge": {"n": None, "a": {"b": 1, "c": None}}},
    {"patch": [{"op": "test", "path": "/a/b", "value": 1}, {"op": "copy", "from": "/a", "path": "/z"}]},
    {
        "patch": [
            {"op": "inc", "path": "/a/b", "inc": 1.5},
            {"op": "str_ins", "path": "/text", "pos": 1, "str": "x"},
        ]
    },
    {"patch": [{"op": "str_del", "path": "/text", "pos": 0, "len": 2}, {"op": "remove", "path": "/z"}]},
    {
        "patch": [
            {"op": "push", "path": "/list", "value": 2, "max": 1},
            {"op": "push", "path": "/new", "value": 3, "max": 2},
        ]
    },
    {"patch": [{"op": "remove", "path": "/missing"}]},
    {"patch": [{"op": "test", "path": "/a", "value": 9}]},
    {"put": 7, "id": "first"},
    {"patch": [{"op": "add", "path": "/mine", "value": 1}], "base": 2},
    {"merge": {"mine": 2}, "base": 1, "on_conflict": "merge"},
    {"put": {"whole": -0.0}},
    {"delete": True},
    {"patch": [{"op": "add", "path": "", "value": [1, 2]}]},
    {"patch": [{"op": "move", "from": "/0", "path": "/-"}]},
)


@pytest.fixture
async def log():
    """Publish one of everything to a document, many times."""
    made = MemoryLog("log-1")
    for _ in range(20):
        for event in EVENTS:
            await append(made, "d", event)
    return made


async def test_it_says_what_it_judged(log):
    coverage, found = await judged(log, (await folded(log))[1])
    assert found == []
    assert all(coverage[what] for what in (EXTENDED, MERGES, PATCHES, REFUSED, REPEATED, RESOLVED, WHOLE))


async def test_it_finds_a_wrong_state_version_and_outcome(log):
    await append(log, "e", {"put": 1})
    await append(log, "e", {"patch": [{"op": "remove", "path": "/missing"}]})
    tables, store = await folded(log)
    tables.documents["n", "d"].state = b"[1,2]"
    [segment] = tables.documents["n", "e"].segments
    put, rejected = segment.entries
    segment.entries[:] = [put._replace(version=2), rejected._replace(status=Status.applied, version=2)]
    _, found = await judged(log, store)
    differences = {(it.document, it.part, it.field) for it in found}
    assert {("d", "document", "state"), ("e", "journal", "version or events")} <= differences
    assert ("e", "journal", "status") in differences
