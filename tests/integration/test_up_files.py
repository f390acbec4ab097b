"""`refold up --store files`: the whole system without PostgreSQL, its projection in SQLite files."""

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest

from refold.client import Refold
from refold.core.errors import Refused
from refold.embedded import read_passwords
from support.up import Up, run_refold, until


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    running = Up.start(tmp_path_factory.mktemp("files") / "data", "--store", "files", "--durability", "os")
    yield running
    if running.process.poll() is None:
        running.stop()


def test_no_postgresql_runs_and_the_store_is_named(up):
    assert not [it for it in up.children() if "postgres" in it.name()]
    assert not (up.data / "postgres").exists()
    lines = [line.split()[0] for line in up.said().splitlines()]
    assert lines == ["files", "nats", "log", "projector", "gateway", "commands", "ready"]
    assert up.endpoints()["stores"] == f"file://{up.data}/files"


async def test_documents_are_written_and_every_version_is_read_after_a_kill_of_the_projector(up):
    async with Refold(up.url) as refold:
        first = await refold.put("acme", "a", {"n": 1})
        killed = up.child("projector")
        killed.kill()
        until(lambda: not killed.is_running())
        async with asyncio.timeout(60):
            second = await refold.patch("acme", "a", [{"op": "replace", "path": "/n", "value": 2}])
        assert (first.version, second.version) == (1, 2)
        assert (await refold.get("acme", "a")).state == {"n": 2}
        assert (await refold.get("acme", "a", version=1)).state == {"n": 1}
        assert [change.version async for change in refold.history("acme", "a")] == [1, 2]
        assert set((await refold.status())["versions"]) == {"refold", "nats", "files"}
        with pytest.raises(Refused) as refused:
            [found async for found in refold.list("acme", where="$.n > 1")]
        assert refused.value.reason == "where_needs_postgres"


async def test_a_dictionary_is_used_by_the_running_projector_and_gateway(up):
    trained_by = ("store", "train", "orders", "--json", "--data", str(up.data))
    async with Refold(up.url) as refold:

        async def put(number):
            order = {"status": "open", "number": number, "customer": {"country": "DE"}, "currency": "EUR"}
            return await refold.put("orders", f"d{number}", order | {"lines": [{"sku": str(number**3)}] * 3})

        for begin in (0, 100):
            await asyncio.gather(*map(put, range(begin, begin + 100)))
        trained = json.loads(run_refold(*trained_by).stdout)
        assert (trained["store"], trained["documents"], trained["held_out"]) == ("files", 150, 50)
        assert trained["bytes_with"] < trained["bytes_without"] / 2
        await put(500)
        assert (await refold.get("orders", "d500")).state["number"] == 500
    with closing(sqlite3.connect(up.data / "files" / "refold.sqlite")) as database:
        select = "SELECT state FROM documents WHERE document = 'd500'"
        # Outcomes are sent before they are committed.
        (state,) = until(lambda: database.execute(select).fetchone())
    assert state[:5] == b"0" + trained["dictionary"].to_bytes(4, "big")
    unknown = run_refold("store", "train", "nowhere", "--data", str(up.data))
    assert unknown.returncode == 1
    assert "nothing_found" in unknown.stderr


def test_verify_rebuild_and_sql_commands_know_the_store(up):
    data = ("--data", str(up.data))
    verified = json.loads(run_refold("verify", "--json", *data).stdout)
    assert (verified["differences"], verified["documents"] > 0) == (0, True)
    assert json.loads(run_refold("rebuild", "--json", *data).stdout)["swapped"] is True
    for command in ("psql", "status --sql"):
        refused = run_refold(*command.split(), *data)
        assert refused.returncode == 1
        assert "sql_needs_postgres" in refused.stderr
        assert "its store is files" in refused.stderr
    other = run_refold("verify", "--store", "redis", *data)
    assert "there is no such store; there are files" in other.stderr


def test_two_stores_of_one_log_are_listed_and_compared(up, tmp_path):
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "refold.1.sqlite"
    (copy.parent / "refold.sqlite").symlink_to(copy.name)
    with (
        closing(sqlite3.connect(up.data / "files" / "refold.sqlite")) as live,
        closing(sqlite3.connect(copy)) as to,
    ):
        live.backup(to)
    nats = up.endpoints()["nats"].replace("://", f"://projector:{read_passwords(up.data)['projector']}@")
    addresses = {
        "REFOLD_NATS_URL": nats,
        "REFOLD_STORES": f"file://{up.data}/files file://{copy.parent} file://{tmp_path}/empty",
    }
    listed = run_refold("store", "status", "--json", **addresses)
    assert listed.returncode == 0, listed.stderr
    first, second, empty = json.loads(listed.stdout)
    assert "problem" not in second, second
    assert (first["name"], first["depth"], first["lag"], first["encoding"]) == ("files", "full", 0, "zstd:1")
    assert (second["name"], second["sequence"]) == ("files-2", first["sequence"])
    assert empty["problem"] == "not filled yet"
    compare = ("store", "compare", "files", "files-2")
    equal = run_refold(*compare, "--json", **addresses)
    assert equal.returncode == 0, equal.stderr
    assert json.loads(equal.stdout)["entries"] > 0
    with closing(sqlite3.connect(copy)) as damaging:
        damaging.execute(
            "UPDATE documents SET version_sequence = version_sequence + 1 WHERE namespace = 'acme'"
        )
        damaging.commit()
    different = run_refold(*compare, **addresses)
    assert different.returncode == 1
    assert "acme/a: document version_sequence: files " in different.stdout
    unknown = run_refold("store", "compare", "files", "redis", **addresses)
    assert "there is no such store; there are files, files-2, files-3" in unknown.stderr


def test_a_folder_of_files_keeps_them_at_the_next_start_and_a_lost_log_is_refused(up):
    assert up.stop() == 0
    rebuilt = run_refold("rebuild", "--json", "--from-nothing", "--data", str(up.data))
    assert json.loads(rebuilt.stdout)["kept"].startswith("refold_damaged_"), rebuilt.stderr
    (up.data / "nats").rename(up.data / "nats.lost")
    (up.data / "log.json").unlink()
    refused = run_refold("up", "--data", str(up.data), "--http", "127.0.0.1:0", "--nats-port", "0")
    assert refused.returncode == 1
    assert "the projection in files" in refused.stderr
    assert "the log of another system" in refused.stderr
    created = run_refold("log", "create", "--i-have-lost-the-log", "--json", "--data", str(up.data))
    (kept,) = json.loads(created.stdout)["kept"]
    assert kept.startswith(f"{up.data}/files_lost_")
    up_again = ("up", "--data", str(up.data), "--http", "127.0.0.1:0", "--nats-port", "0", "--store")
    for address, problem in ((kept, "it belongs to another system's log"), (up.output, "is not a folder")):
        refused = run_refold(*up_again, f"file://{address}")
        assert refused.returncode == 1
        assert f"refold: store_differs: files: {problem}" in refused.stderr.replace(
            "the address of the store ", ""
        )
