"""An import that is killed at any point and repeated has the result of an undisturbed one."""

import asyncio
import gzip
import json
import random
import signal
import subprocess
import sys

import pytest
import zstandard

from refold.client import DocumentAbsent, Refold
from support.up import Up, environment, run_refold

DOCUMENTS = 40
LINES = 5_000


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    running = Up.start(tmp_path_factory.mktemp("import") / "data", "--durability", "os")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def history():
    """Lines of generated documents, and the expected final version and state of each."""
    chance = random.Random(20)
    states = {f"CSS/supports.{number}": {f"k{i}": i for i in range(60)} for number in range(DOCUMENTS)}
    versions = dict.fromkeys(states, 0)
    lines = []
    for number in range(LINES):
        document = f"CSS/supports.{chance.randrange(DOCUMENTS)}"
        state = states[document]
        state[f"k{chance.randrange(60)}"] = number
        versions[document] += 1
        lines.append(json.dumps({"doc": document, "state": state, "ts": 1_600_000_000 + number, "n": number}))
    ends = {document: (versions[document], states[document]) for document in states}
    return "".join(f"{line}\n" for line in lines).encode(), ends


def ends_of(up, namespace):
    async def ask():
        async with Refold(up.url) as refold:
            return {it.id: (it.version, it.state) async for it in refold.list(namespace)}

    return asyncio.run(ask())


def events_of(up, namespace):
    async def ask():
        async with Refold(up.url) as refold:
            return sum(it.events for it in await refold.namespaces() if it.name == namespace)

    return asyncio.run(ask())


def import_until(up, namespace, path, events, number):
    """Import in a process, and end it once so many events are there."""
    command = [sys.executable, "-m", "refold", "import", namespace, str(path), "--url", up.url]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment(), **pipes) as process:
        while events_of(up, namespace) < events and process.poll() is None:
            pass
        process.send_signal(number)
        return process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_import_has_the_same_result_when_repeated(up, history, tmp_path, number):
    data, ends = history
    path = tmp_path / "history.jsonl.gz"
    path.write_bytes(gzip.compress(data, 1))
    namespace = f"ended-{number}"
    codes = [import_until(up, namespace, path, events, number) for events in (1, 1_500, 2_500)]
    assert 0 not in codes
    before = events_of(up, namespace)
    assert 0 < before < LINES
    done = run_refold("import", namespace, str(path), "--url", up.url, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["events"] + summary["present"] == summary["lines"] == LINES
    assert summary["present"] > 0
    assert ends_of(up, namespace) == ends


def test_a_killed_projector_loses_and_duplicates_nothing(up, history, tmp_path):
    data, ends = history
    path = tmp_path / "history.jsonl"
    path.write_bytes(data)
    command = [sys.executable, "-m", "refold", "import", "healed", str(path), "--url", up.url, "--json"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        while events_of(up, "healed") < 1_000:
            pass
        up.child("projector").kill()
        summary = json.loads(process.communicate(timeout=120)[0])
    assert process.returncode == 0
    assert summary["events"] == LINES
    assert ends_of(up, "healed") == ends


def test_a_malformed_line_is_reported_with_its_file_and_the_rest_is_imported(up, tmp_path):
    path = tmp_path / "broken.jsonl.zst"
    lines = [
        b'{"doc":"d","state":{"a":1},"ts":1}',
        b'{"doc":"d","state":{"a":2},"ts":2',
        b'{"doc":"d","state":{"a":3},"ts":"soon"}',
        b'{"doc":"d","state":{"a":4},"ts":4}',
    ]
    path.write_bytes(zstandard.compress(b"\n".join(lines)))
    found = run_refold("import", "broken", str(path), "--url", up.url)
    assert found.returncode == 1
    assert f"{path}:2: bad_json" in found.stderr
    assert f"{path}:3: bad_time: ts" in found.stderr
    assert "4 lines" in found.stdout
    assert ends_of(up, "broken") == {"d": (2, {"a": 4})}


async def test_every_event_holds_its_file_line_and_time(up, tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"doc":"d","state":{"a":1},"ts":1600000000,"actor":"ada","commit":"abc"}\n')
    assert run_refold("import", "described", str(path), "--url", up.url).returncode == 0
    async with Refold(up.url) as refold:
        (change,) = [it async for it in refold.history("described", "d")]
        found = await refold.get("described", "d", at=1600000000, clock="occurred")
    assert change.actor == "ada"
    assert change.meta["commit"] == "abc"
    assert change.meta["import"]["line"] == 1
    assert change.occurred_at == "2020-09-13T12:26:40.000000000Z"
    assert found.state == {"a": 1}


def test_an_import_without_a_service_exits_3(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text('{"doc":"d","state":1,"ts":1}\n')
    found = run_refold("import", "n", str(path), "--url", "http://127.0.0.1:9")
    assert found.returncode == 3


def test_a_line_with_an_older_time_is_the_next_version_and_found_from_the_newest_time_before_it(up, tmp_path):
    path = tmp_path / "lines.jsonl"
    lines = [{"doc": "d", "state": state, "ts": ts} for state, ts in (("new", 2_000), ("old", 1_000))]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run_refold("import", "older", str(path), "--url", up.url).returncode == 0

    async def ask():
        async with Refold(up.url) as refold:
            with pytest.raises(DocumentAbsent):
                await refold.get("older", "d", at=1_500, clock="occurred")
            found = await refold.get("older", "d", at=2_000, clock="occurred")
            return found.version, found.state

    assert asyncio.run(ask()) == (2, "old")
