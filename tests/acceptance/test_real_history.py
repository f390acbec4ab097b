"""Four years of real changes, imported by the command, can be read back by version and by time.

All 22,574 changes are read back by `read_back.py`, a command of its own; here a spread sample of them.
"""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from refold.client import Refold
from support.up import Up, run_refold

HERE = Path(__file__)
HISTORY = HERE.parents[2].parent / "shared" / "data" / "eol-history.jsonl.zst"
SAMPLE = 1_200
CHANGES = 22_574

pytestmark = pytest.mark.skipif(not HISTORY.is_file(), reason=f"the real history is not at {HISTORY}")


@pytest.fixture(scope="module")
def read_back():
    spec = importlib.util.spec_from_file_location("read_back", HERE.with_name("read_back.py"))
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    up = Up.start(tmp_path_factory.mktemp("history") / "data", "--durability", "os")
    done = run_refold("import", "eol", str(HISTORY), "--url", up.url, "--json")
    yield up, done
    assert up.stop() == 0, up.said()


def test_every_change_is_an_event_and_nothing_else_is(imported):
    _, done = imported
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["lines"], printed["events"], printed["unchanged"]) == (22_803, CHANGES, 229)
    assert (printed["present"], printed["refused"]) == (0, 0)


def test_a_sample_is_read_back_equal_by_version_and_occurred_time(imported, read_back):
    up, _ = imported
    changes = read_back.changes_of(HISTORY)
    assert len(changes) == CHANGES
    # Every line whose time equals its document's previous time is among them.
    odd = [change for change in changes if change.digest != change.at_its_time]
    sample = changes[:: len(changes) // SAMPLE] + odd
    assert len(sample) >= 1_000
    report = asyncio.run(read_back.read_back(up.url, "eol", sample))
    assert report.differing == []
    assert (report.by_version, report.by_time) == (len(sample), len(sample))


async def test_the_service_reports_the_same_number_of_events(imported):
    up, _ = imported
    async with Refold(up.url) as refold:
        (counted,) = [it for it in await refold.namespaces() if it.name == "eol"]
        status = await refold.status()
    assert counted.events == CHANGES
    assert status["lag_events"] == 0
