"""An import of an exported history restores state, time, author and type of every version, as of one sequence."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from itertools import count

import httpx
import pytest

from refold.cli import main
from refold.client import Refold
from refold.transfer import importer as importing
from refold.transfer.exporter import ExportListener, export
from refold.transfer.importer import ImportListener, import_file
from support.http import problem
from support.up import environment

LONG = 1_050
"""Versions of one document: more than fit into one page of its history."""

EXACT = {
    "ints": [0, -1, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)],
    "floats": [0.0, -0.5, 1.0, 1e16, 1e-7, 5e-324, 1.7976931348623157e308, 0.1],
    "texts": ["\u0000", "é𝄞", "\u2028", '"\\/', "", "\x7f"],
    "": {"~/": None, "a b": [[]]},
}
BIG = {f"key-{number}": "x" * 100 for number in range(2_000)}


def events():
    """Every kind of change of a document, as lines of a bulk request."""
    times = (f"2020-01-01T00:00:00.{number:09}Z" for number in count(1))

    def event(doc, **change):
        return {"doc": doc, "occurred_at": next(times), **change}

    about = {"actor": "ada", "type": "made", "meta": {"k": [1, 1.0]}}
    yield event("plain", put={"a": 1}, **about)
    yield event("plain", patch=[{"op": "add", "path": "/b", "value": {"c": []}}], actor="\u0000")
    yield event("plain", merge={"b": {"c": None, "d": 1.0}}, type="")
    yield event("plain", put={"a": 1, "b": {"d": 1.0}})
    yield event("plain", patch=[], meta={"import": {"file": "f", "line": 3}})
    yield event("plain", patch=[{"op": "test", "path": "/a", "value": 2}])
    yield event("plain", patch=[{"op": "move", "from": "/b", "path": "/a"}])
    yield {"doc": "exact", "put": EXACT}
    yield {"doc": "exact", "patch": [{"op": "replace", "path": "/ints/0", "value": 0.0}]}
    yield {"doc": "exact", "patch": [{"op": "add", "path": "", "value": [EXACT, 1]}]}
    yield {"doc": "exact", "put": [EXACT, True]}
    yield event("null", put=None)
    yield event("null", put=None)
    yield event("null", delete=True)
    yield event("null", put=None)
    yield event("gone", merge={"a": 1})
    yield event("gone", delete=True, **about)
    yield event("again", patch=[])
    yield event("again", delete=True)
    yield event("again", merge=5)
    yield event("never", delete=True)
    yield event("big", put=BIG)
    yield event("big", patch=[{"op": "remove", "path": "/key-1000"}])
    for number in range(LONG):
        yield event("long", put={"n": number, "rest": "x" * 20}, actor=f"a{number % 7}")


class Written:
    """A namespace with all of it, and the sequence of each event."""

    def __init__(self, system):
        self.url = system.url
        self.name = system.namespace()
        self.outcomes = self.run(lambda refold: refold.append(self.name, events()))

    def run(self, work):
        async def ask():
            async with Refold(self.url) as refold:
                return await work(refold)

        return asyncio.run(ask())

    def versions(self, namespace):
        """Read every version that a namespace has, as its bytes, with its time, author, type and status."""
        return self.run(lambda refold: versions_of(refold, namespace))


async def versions_of(refold, namespace):
    found = {}
    async with httpx.AsyncClient(base_url=refold.url, trust_env=False) as client:
        async for document in refold.names(namespace):
            # Of the long one, those around a page boundary.
            wanted = {1, 2, 999, 1_000, 1_001, LONG} if document == "long" else range(9_999)
            async for change in refold.history(namespace, document):
                summary = (change.occurred_at, change.actor, change.type, change.status)
                state = None
                if change.version in wanted:
                    answer = await client.get(
                        f"/v1/{namespace}/{document}", params={"version": change.version}
                    )
                    state = (answer.status_code, answer.status_code == 200 and answer.content)
                found[document, change.version] = (*summary, state)
    return found


@pytest.fixture(scope="module")
def written(system):
    return Written(system)


@pytest.fixture
def refold(system, monkeypatch, capsys):
    """Run a command in this process; return code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["refold", *map(str, arguments)])
        monkeypatch.setenv("REFOLD_URL", system.url)
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def lines_in(out):
    # Not `splitlines`: it also splits at characters that JSON does not escape.
    return [json.loads(line) for line in out.split("\n") if line]


def test_a_history_is_imported_into_another_namespace_version_by_version(system, written, refold, tmp_path):
    path = tmp_path / "history.jsonl.zst"
    code, out, err = refold("export", written.name, "--history", "--out", path, "--json")
    assert (code, out) == (0, "")
    summary = json.loads(err)
    first = written.versions(written.name)
    assert (summary["lines"], summary["documents"]) == (len(first), 7)
    copy = system.namespace()
    code, out, err = refold("import", copy, path, "--json")
    assert code == 0, err
    assert json.loads(out)["events"] == len(first)
    second = written.versions(copy)
    assert second == first
    assert (first["again", 1][-1], first["null", 1][-1]) == ((200, b"{}"), (200, b"null"))
    assert (first["gone", 2][-1], first["plain", 6][-1]) == ((404, False), (200, b'{"a":{"d":1.0}}'))
    code, out, _ = refold("import", copy, path, "--json")
    assert (json.loads(out)["present"], json.loads(out)["events"]) == (len(first), 0)


def test_an_interrupted_import_of_a_history_has_the_same_result(system, written, tmp_path, monkeypatch):
    path, copy = tmp_path / "history.jsonl", system.namespace()
    lines = []

    async def write(chunk):
        lines.append(chunk)

    def interrupt(tally):
        if tally.events:
            raise InterruptedError

    def listener(progress):
        return ImportListener(refused=pytest.fail, progress=progress, waiting=print)

    written.run(
        lambda refold: export(
            refold,
            written.name,
            write,
            ExportListener(progress=lambda _: None, waiting=print),
            is_history=True,
        )
    )
    path.write_bytes(b"".join(lines))
    monkeypatch.setattr(importing, "BATCH_LINES_MAX", 300)
    for _ in range(2):
        with pytest.raises(InterruptedError):
            written.run(lambda refold: import_file(refold, copy, path, listener(interrupt)))
    tally = written.run(lambda refold: import_file(refold, copy, path, listener(lambda _: None)))
    assert tally.present >= 300
    assert tally.present + tally.events == tally.lines
    assert written.versions(copy) == written.versions(written.name)


def test_states_are_exported_as_of_one_sequence_and_imported_again(system, written, refold, tmp_path):
    code, out, err = refold("export", written.name)
    assert code == 0
    now = {line["doc"]: line for line in lines_in(out)}
    assert now.keys() == {"plain", "exact", "null", "again", "big", "long"}
    assert now["null"] | {"ts": ""} == {"doc": "null", "state": None, "present": True, "ts": ""}
    assert now["long"]["ts"] == written.versions(written.name)["long", LONG][0]
    assert "6 lines of 6 documents" in err
    path, copy = tmp_path / "states.jsonl", system.namespace()
    path.write_text(out)
    assert refold("import", copy, path)[0] == 0
    states = {line["doc"]: line["state"] for line in lines_in(refold("export", copy)[1])}
    assert states == {name: line["state"] for name, line in now.items()}


def test_a_past_time_can_be_exported(written, refold):
    # Several events may have the same recorded time: use the last of them.
    at = written.outcomes[0].recorded_at
    before = [it for it in written.outcomes if it.recorded_at <= at and it.is_effective]
    _, out, _ = refold("export", written.name, "--at", at, "--history")
    assert len(lines_in(out)) == len(before)
    _, out, _ = refold("export", written.name, "--at", at)
    expected = written.run(lambda refold: states_at(refold, written.name, at))
    assert {line["doc"]: line["state"] for line in lines_in(out)} == expected
    assert "plain" in expected
    assert refold("export", written.name, "--at", "2001-01-01", "--history")[:2] == (0, "")
    for history in ((), ("--history",)):
        code, out, err = refold("export", written.name, "--at", "2200-01-01", *history)
        assert (code, out) == (1, "")
        assert "time_in_future" in err
    assert refold("export", written.name, "--at", "soon")[0] == 2


@pytest.fixture
def replay(system, refold, monkeypatch, tmp_path):
    """Run an export by replay in a folder of its own, beside a store that cannot be reached."""
    monkeypatch.setenv("REFOLD_NATS_URL", system.nats.url("projector"))
    monkeypatch.setenv("REFOLD_STORES", "redis://127.0.0.1:1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda *arguments: refold("export", *arguments, "--replay", "--json")


def test_a_replay_of_the_log_gives_the_lines_of_a_full_store(system, written, refold, replay, tmp_path):
    middle = written.outcomes[len(written.outcomes) // 2].recorded_at
    for asked in (
        (),
        ("--history",),
        ("--at", middle),
        ("--at", middle, "--history"),
        ("--at", "2001-01-01"),
    ):
        code, out, err = replay(written.name, *asked)
        assert (code, out) == refold("export", written.name, *asked)[:2], err
        last = max(it.sequence for it in written.outcomes if it.recorded_at <= middle)
        if "--at" in asked:
            assert json.loads(err)["sequence"] == (last if middle in asked else 0)
        else:
            assert out.count("\n") > (LONG if asked else 5)
    assert not list(tmp_path.iterdir())


def test_a_replay_names_a_namespace_without_events_and_a_time_in_the_future(written, replay):
    for asked, reason in (
        ((written.name, "--at", "2200-01-01"), "time_in_future"),
        (("t",), "namespace_unknown"),
    ):
        code, out, err = replay(*asked)
        assert (code, out) == (1, "")
        assert reason in err


async def states_at(refold, namespace, at):
    return {it.id: it.state async for it in refold.list(namespace, at=at)}


@pytest.mark.parametrize("is_history", [False, True])
async def test_an_export_is_consistent_under_concurrent_writes(system, is_history):
    namespace, numbers = system.namespace(), count()
    lines = []

    async def write(chunk):
        lines.extend(map(json.loads, chunk.splitlines()))

    async with Refold(system.url) as refold:

        async def publish():
            batch = [{"doc": f"d{next(numbers) % 50}", "put": next(numbers)} for _ in range(100)]
            return await refold.append(namespace, batch, wait_seconds=0)

        async def go_on():
            while True:
                await publish()

        await publish()
        writer = asyncio.create_task(go_on())
        listener = ExportListener(progress=lambda _: None, waiting=print)
        tally = await export(refold, namespace, write, listener, is_history=is_history)
        writer.cancel()
        await asyncio.wait({writer})
        found = refold.list(namespace, sequence=tally.sequence, timeout_seconds=30)
        expected = {it.id: (it.version, it.state) async for it in found}
        assert expected
    if is_history:
        assert {line["doc"]: (line["version"], line["state"]) for line in lines} == expected
        assert len(lines) == sum(version for version, _ in expected.values())
    else:
        assert {line["doc"]: line["state"] for line in lines} == {
            name: state for name, (_, state) in expected.items()
        }


def test_an_import_into_a_document_with_another_history_is_refused(system, refold, tmp_path):
    namespace = system.namespace()
    refold("put", f"{namespace}/d", '{"mine":1}')
    path = tmp_path / "history.jsonl"
    line = '{"doc":"%s","state":%d,"ts":1,"version":%d}\n'
    path.write_text("".join(line % (doc, version, version) for doc in "de" for version in (1, 2)))
    code, _, err = refold("import", namespace, path)
    assert code == 1
    assert f"{path}:1: version_differs: version: the document's next version here is 2 (got 1)" in err
    assert f"{path}:2: version_differs" in err
    assert json.loads(refold("get", f"{namespace}/d")[1]) == {"mine": 1}
    assert json.loads(refold("get", f"{namespace}/e")[1]) == 2


async def test_names_include_deleted_documents_and_none_that_never_existed(api):
    for document in ("a", "gone"):
        await api.put(document, 1)
    await api.delete("gone")
    answer = (await api.get(fields="id", absent="true")).json()
    assert [(it["id"], it["version"], it.get("absent")) for it in answer["items"]] == [
        ("a", 1, None),
        ("gone", 2, True),
    ]
    answer = (await api.get(fields="id", absent="true", limit=1)).json()
    rest = await api.get(fields="id", absent="true", cursor=answer["next"])
    assert [it["id"] for it in rest.json()["items"]] == ["gone"]
    for wrong in ({}, {"fields": "id", "sequence": 1}, {"fields": "id", "at": "2020-01-01"}, {"where": "$"}):
        problem(await api.get(absent="true", **wrong), 422, "contradictory")


@pytest.mark.parametrize(
    ("number", "code", "about", "is_replayed"),
    [(None, 0, "", False), (signal.SIGINT, 130, "stopped", False), (signal.SIGTERM, 130, "stopped", True)],
)
def test_a_closed_reader_and_an_interrupt_end_an_export_quietly(
    system, written, number, code, about, is_replayed, tmp_path
):
    command = [sys.executable, "-m", "refold", "export", written.name, "--history", "--url", system.url]
    servers = {"REFOLD_NATS_URL": system.nats.url("projector"), "REFOLD_POSTGRES_URL": system.postgres_dsn}
    made = environment(**servers, TMPDIR=str(tmp_path))
    with subprocess.Popen(
        command + ["--replay"] * is_replayed, env=made, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        # It has started and blocks in the pipe, which holds less than one version.
        assert os.read(process.stdout.fileno(), 10)
        assert len(list(tmp_path.iterdir())) == is_replayed
        if number is None:
            process.stdout.close()
        else:
            process.send_signal(number)
        assert process.wait(30) == code
        summary = process.stderr.read().decode()
    assert summary.startswith(about)
    assert summary.count("\n") == bool(about)
    assert not list(tmp_path.iterdir())
