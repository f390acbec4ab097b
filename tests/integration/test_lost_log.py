"""A log is never created where one may have existed, and no start changes or deletes remains of one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from refold.core.errors import LogDiffers, LogMissing
from refold.log import Publication
from refold.log.jetstream.api import request_api
from refold.wiring.servers import make_log, open_log, projection_traces
from refold.wiring.settings import load
from support.broker import Broker, running_broker
from support.delivered import one_server
from support.services import make_site, projector
from support.up import END_SECONDS, Up, run_refold, until

EVENTS_PER_BATCH = 500
BATCHES = 17
"""Together about 18 MB before compression: two sealed blocks and one that is open."""

FLIPPED_AT = 1_000_000


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running_broker(tmp_path / "data", sync="fsync") as broker:
        yield broker


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose system was stopped cleanly, with a log of three blocks."""
    data = tmp_path_factory.mktemp("stopped") / "data"
    up = Up.start(data, "--durability", "os")
    for batch in range(BATCHES):
        lines = [
            {"doc": f"d{at}", "put": {"batch": batch, "noise": os.urandom(1_000).hex()}}
            for at in range(EVENTS_PER_BATCH)
        ]
        body = "\n".join(map(json.dumps, lines)).encode()
        headers = {"Content-Type": "application/x-ndjson"}
        answer = httpx.post(f"{up.url}/v1/n/events", content=body, headers=headers, timeout=60)
        assert answer.text.count('"applied"') == EVENTS_PER_BATCH
    assert up.stop() == 0
    assert len(blocks(data)) == 3
    return data


def copy_of(stopped: Path, path: Path) -> Path:
    """Return a copy that a test may damage."""
    data = path / "data"
    shutil.copytree(stopped, data, symlinks=True)
    for found in (stopped / "postgres").rglob("*"):
        owner = found.stat()
        os.chown(data / found.relative_to(stopped), owner.st_uid, owner.st_gid)
    os.chown(data / "postgres", (stopped / "postgres").stat().st_uid, (stopped / "postgres").stat().st_gid)
    return data


def stream_of(data: Path) -> Path:
    return data / "nats/jetstream/$G/streams/STATE"


def blocks(data: Path) -> dict[str, str]:
    """Digests of the blocks where nats-server keeps them, by file name."""
    found = sorted((stream_of(data) / "msgs").glob("*.blk"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def flip_a_bit(path: Path, at: int = FLIPPED_AT) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def crash(data: Path) -> None:
    """Start the system and kill all of its processes, as a power cut does."""
    up = Up.start(data, "--durability", "os")
    answer = httpx.put(f"{up.url}/v1/n/last", json={"crash": True}, timeout=60)
    assert answer.status_code == 201
    processes = [psutil.Process(up.process.pid), *up.children()]
    for process in processes:
        # Some exit with their parent.
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    up.process.wait(END_SECONDS)
    until(lambda: not any(process.is_running() for process in processes))


def refused_start(data: Path) -> str:
    """Start the system, which must exit with code 1; return its output."""
    up = Up(data, "--http", "127.0.0.1:0", "--nats-port", "0", "--durability", "os")
    assert up.process.wait(END_SECONDS) == 1, up.said()
    assert not (data / "endpoints.json").exists()
    return up.said()


@pytest.mark.slow
def test_a_flipped_bit_after_a_crash_loses_no_block_and_can_be_repaired(
    stopped: Path, tmp_path: Path
) -> None:
    data = copy_of(stopped, tmp_path)
    crash(data)
    sound = blocks(data)
    flip_a_bit(stream_of(data) / "msgs/1.blk")
    damaged = blocks(data)
    for _ in range(2):
        said = refused_start(data)
        assert "log_missing" in said
        assert "crc mismatch" in said
        assert "3 blocks" in said
        assert "log create --i-have-lost-the-log" in said
        assert blocks(data) == damaged
    # Two starts with the same damage made one copy.
    (kept,) = (data / "nats/damaged").iterdir()
    assert str(kept) in said
    flip_a_bit(stream_of(data) / "msgs/1.blk")
    assert blocks(data) == sound
    up = Up.start(data, "--durability", "os")
    assert httpx.get(f"{up.url}/v1/n/last", timeout=60).json() == {"crash": True}
    verified = run_refold("verify", "--data", str(data))
    assert verified.returncode == 0, verified.stderr
    assert up.stop() == 0


@pytest.mark.slow
def test_a_flipped_bit_after_a_clean_stop_is_reported_with_its_events_and_the_error_of_the_broker(
    stopped: Path, tmp_path: Path
) -> None:
    data = copy_of(stopped, tmp_path)
    flip_a_bit(stream_of(data) / "msgs/1.blk")
    damaged = blocks(data)
    said = refused_start(data)
    assert "log_hole" in said
    assert "first_sequence=1, last_sequence=" in said
    assert "crc mismatch" in said
    assert "1.blk" in said
    assert blocks(data) == damaged


@pytest.mark.slow
def test_an_open_block_truncated_by_the_broker_is_copied_unchanged(stopped: Path, tmp_path: Path) -> None:
    data = copy_of(stopped, tmp_path)
    # Without its index, the server reads every block again.
    (stream_of(data) / "msgs/index.db").unlink()
    newest = stream_of(data) / "msgs/3.blk"
    flip_a_bit(newest, newest.stat().st_size // 2)
    damaged = blocks(data)
    said = refused_start(data)
    assert "log_hole: the log ends before what has been folded from it" in said
    assert "nats-server cut it from" in said
    (kept,) = (data / "nats/damaged").rglob("3.blk")
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == damaged["3.blk"]
    assert blocks(data)["1.blk"] == damaged["1.blk"]


@pytest.mark.slow
def test_verify_and_rebuild_stop_at_an_unreadable_block(stopped: Path, tmp_path: Path) -> None:
    data = copy_of(stopped, tmp_path)
    block = stream_of(data) / "msgs/2.blk"
    block.unlink()
    block.mkdir()
    # The newest events can be read, and all of them are in the projection: the system starts.
    up = Up.start(data, "--durability", "os")
    for command in ("verify", "rebuild"):
        ended = run_refold(command, "--data", str(data))
        assert ended.returncode == 1
        assert ended.stderr.startswith("refold: log_hole: ")
        assert "first_sequence=" in ended.stderr
        assert "last_sequence=" in ended.stderr
        assert ended.stdout == ""
    assert up.process.poll() is None
    assert up.stop() == 0


@pytest.mark.slow
def test_a_lost_log_is_not_recreated_even_without_a_projection(stopped: Path, tmp_path: Path) -> None:
    data = copy_of(stopped, tmp_path)
    aside = tmp_path / "aside"
    stream_of(data).rename(aside)
    said = refused_start(data)
    assert "log_missing" in said
    assert "the projection in postgres (schema refold) is bound to log" in said
    assert "the marker names log" in said
    (data / "postgres").rename(tmp_path / "projection")
    said = refused_start(data)
    assert "log_missing" in said
    assert "the marker names log" in said
    assert blocks(data) == {}
    aside.rename(stream_of(data))
    up = Up.start(data, "--durability", "os")
    verified = run_refold("verify", "--data", str(data))
    assert verified.returncode == 0, verified.stderr
    assert up.stop() == 0


@pytest.mark.slow
def test_remaining_blocks_prevent_a_new_log(stopped: Path, tmp_path: Path) -> None:
    data = copy_of(stopped, tmp_path)
    (stream_of(data) / "meta.inf").unlink()
    (data / "log.json").unlink()
    (data / "postgres").rename(tmp_path / "projection")
    left = blocks(data)
    said = refused_start(data)
    assert "log_missing" in said
    assert "holds 3 blocks" in said
    assert blocks(data) == left


@pytest.mark.slow
def test_only_the_option_creates_a_new_log_and_remains_of_the_lost_one_are_kept(
    stopped: Path, tmp_path: Path
) -> None:
    data = copy_of(stopped, tmp_path)
    left = blocks(data)
    (stream_of(data) / "meta.inf").unlink()
    (data / "usage.sqlite").write_text("the counts of the lost log")
    refused = run_refold("log", "create", "--data", str(data))
    assert refused.returncode == 1
    assert "log_missing" in refused.stderr
    created = run_refold("log", "create", "--i-have-lost-the-log", "--data", str(data), "--json")
    assert created.returncode == 0, created.stderr
    printed = json.loads(created.stdout)
    up = Up.start(data, "--durability", "os")
    assert printed["log_id"] in up.said()
    assert httpx.get(f"{up.url}/v1/n/d0", timeout=60).status_code == 404
    assert httpx.put(f"{up.url}/v1/n/d0", json={"new": True}, timeout=60).status_code == 201
    schema, counts, folder = printed["kept"]
    assert Path(counts).read_text() == "the counts of the lost log"
    assert not (data / "usage.sqlite").exists()
    documents = asyncio.run(_count(up.endpoints()["postgres"], schema.removeprefix("schema ")))
    # The log's own stream is one of them.
    assert documents == EVENTS_PER_BATCH + 1
    kept = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).rglob("*.blk")}
    assert kept == left
    again = run_refold("log", "create", "--data", str(data))
    assert again.returncode == 1
    assert "data_folder_in_use" in again.stderr
    assert up.stop() == 0
    checked = run_refold("log", "create", "--i-have-lost-the-log", "--data", str(data), "--json")
    assert json.loads(checked.stdout) == {"log_id": printed["log_id"], "kept": []}


async def _count(dsn: str, schema: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval(f'SELECT count(*) FROM "{schema}".documents'))
    finally:
        await connection.close()


async def test_with_an_external_broker_only_the_option_creates_a_new_log(
    broker: Broker, postgres_dsn: str
) -> None:
    admin = broker.server.url("administrator")
    addresses = {"REFOLD_NATS_ADMIN_URL": admin, "REFOLD_POSTGRES_URL": postgres_dsn}
    site = await make_site(broker.server, postgres_dsn)
    async with projector(site) as process:
        await _until_bound(postgres_dsn)
        process.terminate()
        await process.wait()
    checked = await asyncio.to_thread(run_refold, "log", "create", **addresses)
    assert checked.stdout == f"log {site.log_id}\n"
    await request_api(await broker.connect(), "STREAM.DELETE.STATE")
    refused = await asyncio.to_thread(run_refold, "log", "create", **addresses)
    assert refused.returncode == 1
    assert site.log_id in refused.stderr
    created = await asyncio.to_thread(run_refold, "log", "create", "--i-have-lost-the-log", **addresses)
    assert created.returncode == 0, created.stderr
    assert "kept of the lost log: schema refold_lost_" in created.stdout
    assert await projection_traces(load(postgres_url=postgres_dsn)) == []


async def test_a_broker_without_its_encryption_key_keeps_its_storage(broker: Broker, tmp_path: Path) -> None:
    stored = tmp_path / "data/nats"
    plain = (stored / "nats.conf").read_text()

    async def restarted(key: str) -> None:
        """Start the server again as an operator with an encrypted log does."""
        await broker.server.stop()
        await broker.restart_with(plain.replace("jetstream {", f'jetstream {{ cipher: aes, key: "{key}"\n'))

    await restarted("the right key")
    made = await make_log(broker.server.url("administrator"))
    await broker.publish_raw(b"PUB state.n.a 2\r\n{}\r\n")
    await restarted("another key")
    left = blocks(tmp_path / "data")
    assert list(left) == ["1.blk"]
    with pytest.raises(LogMissing, match="is bound to log"):
        await make_log(broker.server.url("administrator"), traces=_bound)
    assert blocks(tmp_path / "data") == left
    await restarted("the right key")
    assert await make_log(broker.server.url("administrator"), traces=_bound) == made


async def test_the_delivered_broker_copies_blocks_that_its_start_deletes(tmp_path: Path) -> None:
    with one_server(tmp_path) as server:
        await make_log(server.url("administrator"))
        log = await open_log(server.url("gateway"), "test")
        for _ in range(11):
            batch = [Publication(namespace="n", document=f"d{at}", body=noise(10_000)) for at in range(100)]
            assert isinstance(await log.append_atomically(batch), list)
        await log.close()
        server.kill()
        (folder,) = (tmp_path / "data/jetstream").rglob("STATE/msgs")
        flip_a_bit(folder / "1.blk")
        (folder / "index.db").unlink(missing_ok=True)
        damaged = {path.name: path.read_bytes() for path in folder.glob("*.blk")}
        assert len(damaged) == 2
        server.start()
        assert not folder.exists()
        with pytest.raises(LogMissing, match="is bound to log"):
            await make_log(server.url("administrator"), marker=NoMarker(), traces=_bound)
        server.kill()
        server.start()
        (moment,) = (tmp_path / "data/damaged").iterdir()
        assert {
            path.name: path.read_bytes() for path in moment.rglob("*.blk") if "STATE" in str(path)
        } == damaged
        assert "deleted or cut these blocks" in (tmp_path / "server.log").read_text()


def noise(size: int) -> bytes:
    """Bytes that do not compress to less than half."""
    return os.urandom(size // 2).hex().encode()


class NoMarker:
    """A marker that was never written."""

    async def read(self) -> str | None:
        return None

    async def write(self, log_id: str) -> None:
        raise AssertionError(log_id)

    async def forget(self) -> None:
        raise AssertionError


async def _bound() -> list[str]:
    return ["the projection is bound to log x"]


async def test_the_marker_in_the_broker_alone_prevents_a_second_log(broker: Broker) -> None:
    url = broker.server.url("administrator")
    made = await make_log(url)
    assert await make_log(url) == made
    client = await broker.connect()
    await request_api(client, "STREAM.DELETE.STATE")
    with pytest.raises(LogMissing, match=f"the marker names log {made}"):
        await make_log(url)
    await request_api(client, "STREAM.DELETE.KV_refold")
    assert await make_log(url) != made


async def test_an_emptied_stream_gets_no_second_genesis(broker: Broker) -> None:
    url = broker.server.url("administrator")
    made = await make_log(url)
    client = await broker.connect()
    config = (await request_api(client, "STREAM.INFO.STATE"))["config"]
    await request_api(client, "STREAM.DELETE.STATE")
    await request_api(client, "STREAM.CREATE.STATE", config)
    with pytest.raises(LogMissing, match="is empty"):
        await make_log(url)
    await request_api(client, "STREAM.DELETE.STATE")
    await request_api(client, "STREAM.CREATE.STATE", {**config, "subjects": ["state._refold.*"]})
    with pytest.raises(LogMissing, match=f"the marker names log {made}"):
        await make_log(url)
    assert (await request_api(client, "STREAM.INFO.STATE"))["state"]["last_seq"] == 0


async def test_a_log_with_another_id_than_the_created_one_is_refused(broker: Broker) -> None:
    url = broker.server.url("administrator")
    await make_log(url)
    client = await broker.connect()
    await client.request("$KV.refold.log", b"another")
    with pytest.raises(LogDiffers, match="another log than the one created here"):
        await make_log(url)


async def test_a_projector_creates_no_log_for_a_projection_that_has_one(
    broker: Broker, postgres_dsn: str
) -> None:
    site = await make_site(broker.server, postgres_dsn)
    admin = broker.server.url("administrator")
    async with projector(site, nats_admin_url=admin) as process:
        await _until_bound(postgres_dsn)
        process.terminate()
        await process.wait()
    client = await broker.connect()
    for stream in ("STATE", "KV_refold"):
        await request_api(client, f"STREAM.DELETE.{stream}")
    async with projector(site, nats_admin_url=admin) as process:
        assert await process.wait() == 1
    assert (await request_api(client, "STREAM.NAMES"))["streams"] is None
    (trace,) = await projection_traces(load(postgres_url=postgres_dsn))
    assert site.log_id in trace


async def _until_bound(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        while await connection.fetchval("SELECT to_regclass('refold.log') IS NULL"):
            pass
        while await connection.fetchval("SELECT count(*) FROM refold.log") == 0:
            pass
    finally:
        await connection.close()
