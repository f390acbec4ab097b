"""Four years of real changes, imported by the command, can be read back by version and by time.

Every run imports the beginning of the history, the slow tests all of it. All 22,574 changes are read back by
`read_back.py`, a command of its own; here a spread sample of them.
"""

import asyncio
import importlib.util
import json
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

import asyncpg
import pytest

from acceptance.usage_kills import content, drill
from refold.client import Refold
from refold.core.errors import Refused
from refold.transfer import LinesFile
from refold.usage.report import COUNTS, GROUPINGS, Question, answer
from refold.usage.storage import Storage
from refold.wiring.settings import load
from refold.wiring.usage import read_usage
from support.up import Up, run_refold

HERE = Path(__file__)
HISTORY = HERE.parents[2].parent / "shared" / "data" / "eol-history.jsonl.zst"
SAMPLE = 1_200
LINES, CHANGES = 22_803, 22_574
BEGINNING, BEGINNING_SAMPLE = 3_000, 300

pytestmark = pytest.mark.skipif(not HISTORY.is_file(), reason=f"the real history is not at {HISTORY}")


@pytest.fixture(scope="module")
def read_back():
    spec = importlib.util.spec_from_file_location("read_back", HERE.with_name("read_back.py"))
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["the beginning", pytest.param("all", marks=pytest.mark.slow)])
def history(request, tmp_path_factory, read_back):
    """Return a file, its lines and its changes."""
    if request.param == "all":
        return HISTORY, LINES, read_back.changes_of(HISTORY)
    path = tmp_path_factory.mktemp("lines") / "beginning.jsonl"
    path.write_bytes(
        b"".join(text.rstrip() + b"\n" for _, text in islice(LinesFile(HISTORY).lines(), BEGINNING))
    )
    return path, BEGINNING, read_back.changes_of(path)


@pytest.fixture(scope="module")
def imported(tmp_path_factory, history):
    up = Up.start(tmp_path_factory.mktemp("history") / "data", "--durability", "os")
    done = run_refold("import", "eol", str(history[0]), "--url", up.url, "--json")
    yield up, done
    assert up.stop() == 0, up.said()


def test_every_change_is_an_event_and_nothing_else_is(imported, history):
    _, lines, changes = history
    _, done = imported
    assert done.returncode == 0, done.stderr
    assert len(changes) == CHANGES if lines == LINES else BEGINNING * 0.9 < len(changes) <= BEGINNING
    printed = json.loads(done.stdout)
    assert (printed["lines"], printed["events"]) == (lines, len(changes))
    assert printed["unchanged"] == lines - len(changes)
    assert (printed["present"], printed["refused"]) == (0, 0)


def test_a_sample_is_read_back_equal_by_version_and_occurred_time(imported, history, read_back):
    up, _ = imported
    _, lines, changes = history
    # Every line whose time equals its document's previous time is among them.
    odd = [change for change in changes if change.digest != change.at_its_time]
    sample = changes[:: len(changes) // (SAMPLE if lines == LINES else BEGINNING_SAMPLE)] + odd
    report = asyncio.run(read_back.read_back(up.url, "eol", sample))
    assert report.differing == []
    assert (report.by_version, report.by_time) == (len(sample), len(sample))


async def test_the_service_reports_the_same_number_of_events(imported, history):
    up, _ = imported
    async with Refold(up.url) as refold:
        (counted,) = [it for it in await refold.namespaces() if it.name == "eol"]
        status = await refold.status()
    assert counted.events == len(history[2])
    assert status["lag_events"] == 0


async def test_usage_sums_to_the_checkpoints_in_every_grouping_and_is_made_again_equal(imported, monkeypatch):
    # The logging of this process stays as it is.
    monkeypatch.setattr("refold.wiring.servers.configure", lambda *_, **__: None)
    up, _ = imported
    async with Refold(up.url) as refold:
        await refold.append("story", [{"doc": "d", **event} for event in STORY], committed=True)
        log_id = (await refold.status())["log_id"]
    expected = await checkpoint_sums(up)
    path, settings = up.data / "usage.sqlite", load(data=up.data)
    contents, found = [], []
    for _ in range(2):
        path.unlink(missing_ok=True)
        found.append(await read_usage(settings, {"namespace": None}, lambda *_: None))
        contents.append(content(path))
    assert contents[0] == contents[1]
    assert found[0] == found[1]
    with closing(Storage(path, log_id)) as storage:
        answers = [answer(storage, Question.read(None, by)) for by in GROUPINGS]
    totals = [[found["total"][name] for name in COUNTS] for found in answers]
    applied, merged, rejected, duplicate, sequence = expected
    assert min(merged, rejected, duplicate) > 0
    assert totals[0][:5] == [sequence, applied + merged, merged, rejected, duplicate]
    assert totals == [totals[0]] * len(GROUPINGS)
    assert {found["sequence"] for found in answers} == {sequence}
    with pytest.raises(Refused, match="no event of a namespace other is counted"):
        await read_usage(settings, {"namespace": "other"}, lambda *_: None)


@pytest.mark.slow
def test_usage_that_is_killed_again_and_again_is_counted_exactly(imported, history):
    up, _ = imported
    seen = drill(up.data, kills=10, seed=history[1])
    assert seen["kills between the first and the last event"] > 0


STORY = (
    {"put": {"a": 1}, "id": "one", "actor": "ada"},
    {"put": {"a": 1}, "id": "one", "actor": "ada"},
    {"patch": [{"op": "replace", "path": "/a", "value": 2}], "actor": "bob"},
    {"patch": [{"op": "replace", "path": "/a", "value": 3}], "base": 1, "actor": "eve"},
    {"patch": [{"op": "remove", "path": "/b"}]},
    {"put": 1, "base": 1, "on_conflict": "reject"},
)


async def checkpoint_sums(up):
    """Return the sums of the checkpoints' counts, and their sequence."""
    connection = await asyncpg.connect(up.endpoints()["postgres"])
    try:
        sums = "sum(applied)::int, sum(merged)::int, sum(rejected)::int, sum(duplicate)::int"
        sequence = "SELECT min(read_sequence)::int FROM refold.shards"
        return tuple(await connection.fetchrow(f"SELECT {sums}, ({sequence}) FROM refold.checkpoints"))
    finally:
        await connection.close()
