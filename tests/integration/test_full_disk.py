"""The system survives a full disk and a hanging service without losing a write."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from refold.log import Appended, Publication, Unknown
from refold.wiring.servers import make_log, open_log
from support.delivered import one_server
from support.up import Up, run_refold, until

pytestmark = pytest.mark.slow

DISK_MIB = 420
FULL_WRITES = 3
"""Writes that were not acknowledged one after the other: the disk is full (each waits for its acknowledgement)."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own for one data folder."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted only by root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, left_bytes: int) -> Path:
    """Fill the disk up to so many bytes."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        while (space := shutil.disk_usage(disk).free - left_bytes) > 0:
            file.write(b"\0" * min(space, 1024 * 1024))
            file.flush()
    return filler


def put(client: httpx.Client, number: int) -> tuple[str, int, dict[str, object]] | None:
    """Write one document; return what was acknowledged."""
    document, state = f"d{number % 20}", {"number": number, "noise": os.urandom(20_000).hex()}
    try:
        answer = client.put(f"/v1/n/{document}", json=state)
    except httpx.TransportError:
        return None
    return (document, answer.json()["version"], state) if answer.status_code in {200, 201} else None


def test_writes_resume_once_there_is_space_and_no_acknowledged_one_is_lost(small_disk: Path) -> None:
    data = small_disk / "data"
    # Its output is written outside of the full disk.
    up = Up.start(data, "--log-level", "warning")
    acknowledged = []
    with httpx.Client(base_url=up.url, timeout=60, headers={"Refold-Wait": "2"}) as client:
        filler = fill(small_disk, left_bytes=30 * 1024 * 1024)
        number = failures = 0
        while failures < FULL_WRITES:
            number += 1
            written = put(client, number)
            failures = 0 if written else failures + 1
            acknowledged += [written] if written else []
        assert up.process.poll() is None, up.said()
        filler.unlink()
        freed_at = time.monotonic()
        until(lambda: put(client, number), seconds=60)
        print(f"writes came back after {time.monotonic() - freed_at:.1f} s")
        # If PostgreSQL crashed, reads are refused until the log is folded up to its end.
        until(lambda: client.get("/v1/n/absent").status_code == 404, seconds=60)
        for document, version, state in acknowledged:
            wanted = {"version": version, "min_version": version, "timeout": 60}
            assert client.get(f"/v1/n/{document}", params=wanted).json() == state
    verified = run_refold("verify", "--data", str(data))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert up.process.poll() is None
    # By the broker, or by PostgreSQL if it needed the last space.
    assert "write error" in up.said() or "the disk of the data folder is full" in up.said()
    assert up.stop() == 0


def test_a_service_that_cannot_write_its_log_continues(small_disk: Path) -> None:
    up = Up.start(small_disk / "data", "--log-level", "debug")
    address = urlsplit(up.url)
    filler = fill(small_disk, left_bytes=0)
    # Each is an error in the gateway, which logs a line that cannot be written.
    for _ in range(50):
        httpx.get(f"{up.url}/v1/n/d", params={"min_version": 1, "timeout": 0.0}, timeout=30)
        with socket.create_connection((address.hostname, address.port), timeout=30) as peer:
            peer.sendall(b"PUT /v1/n/d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    filler.unlink()
    for _ in range(300):
        with socket.create_connection((address.hostname, address.port), timeout=30) as peer:
            peer.sendall(b"PUT /v1/n/d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    with httpx.Client(base_url=up.url, timeout=60) as client:
        until(lambda: put(client, 1), seconds=60)
        assert client.get("/v1/n/d1").json()["number"] == 1
    assert up.stop() == 0


async def test_the_delivered_broker_exits_for_a_restart_once_there_is_space_again(small_disk: Path) -> None:
    with one_server(small_disk) as server:
        await make_log(server.url("administrator"))
        log = await open_log(server.url("gateway"), "test")
        filler = fill(small_disk, left_bytes=0)
        event = Publication(namespace="n", document="d", body=b'{"put":"%b"}' % (b"x" * 100_000))
        answer = await log.append(event)
        assert isinstance(answer, Unknown)
        assert server.process is not None
        assert server.process.poll() is None
        filler.unlink()
        until(lambda: server.process is not None and server.process.poll() is not None)
        assert "there is space again" in (small_disk / "server.log").read_text()
        server.start()
        again = await open_log(server.url("gateway"), "test")
        assert isinstance(await again.append(event), Appended)
        await again.close()
        await log.close()


def test_a_service_that_hangs_is_restarted(tmp_path: Path) -> None:
    name = "gateway"
    up = Up.start(tmp_path / "data", "--durability", "os")
    try:
        hung = _service(up, name)
        hung.send_signal(signal.SIGSTOP)
        until(lambda: not hung.is_running() and _service(up, name).pid != hung.pid, seconds=90)
        assert f"{name:<10} was ended (it did not answer), is started again" in up.said()
        with httpx.Client(base_url=up.url, timeout=60) as client:
            until(lambda: put(client, 1), seconds=60)
    finally:
        assert up.stop() == 0


def _service(up: Up, name: str) -> psutil.Process:
    found = until(
        lambda: [it for it in up.children() if it.cmdline()[2:4] == ["refold.wiring.service", name]]
    )
    return found[0]
