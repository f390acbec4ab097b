"""Reads never return an older state after a crash of everything, of PostgreSQL alone, or after a lost database."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from support.system import free_port
from support.up import Up, until

WRITERS = 8
OUTCOMES = 200
"""Outcomes received by all writers before the crash: enough for commits that are not synced."""
ROUNDS = 3
EVENTS = 5_000
DOCUMENTS = 1_000

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data folder; processes that a failed test left running in it are killed."""
    folder = tmp_path / "data"
    yield folder
    # Its services name no folder, and a stopped one does not exit with its parent.
    ours = [process for process in psutil.Process().children() if str(folder) in _line(process)]
    kill_all([*ours, *(child for process in ours for child in process.children(recursive=True))])


def _line(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, trust_env=False, timeout=60)


def started_without_folding(data: Path, http: str) -> tuple[Up, psutil.Process]:
    """Start it with a projector that is stopped before it has got its settings; return that, too."""
    up = Up(data, "--http", http, "--nats-port", "0")
    projector: psutil.Process = until(lambda: _child(up, "projector"))
    projector.send_signal(signal.SIGSTOP)
    return up, projector


class Writers:
    """Threads that write a document each; `acknowledged` is the version of its last outcome."""

    def __init__(self, up: Up) -> None:
        self.acknowledged: dict[str, int] = {}
        self.count = 0
        self._up = up
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(f"d{n}",), daemon=True) for n in range(WRITERS)
        ]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write until the block ends."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _write(self, name: str) -> None:
        with client(self._up.url) as http, suppress(httpx.TransportError):
            # The crash: writes in flight have no outcome.
            while not self._stop.is_set():
                response = http.put(f"/v1/n/{name}", json=1)
                if response.status_code in (200, 201):
                    self.acknowledged[name] = response.json()["version"]
                    self.count += 1


def first_version(http: httpx.Client, name: str) -> int:
    """Read until there is an answer; return its version, 0 for an absent document."""

    def look() -> httpx.Response | None:
        response = http.get(f"/v1/n/{name}")
        return None if response.status_code == 503 else response

    response: httpx.Response = until(look)
    return version_in(response)


def version_in(response: httpx.Response) -> int:
    """Return the version that was read, 0 for an absent document."""
    assert response.status_code in (200, 404)
    return int(response.headers["etag"].strip('"')) if response.status_code == 200 else 0


def behind(url: str, acknowledged: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Read every document once; return the acknowledged and the read version of those that were read older."""
    with client(url) as http:
        read = {name: first_version(http, name) for name in acknowledged}
    return {name: (version, read[name]) for name, version in acknowledged.items() if read[name] < version}


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=60)


def test_after_a_crash_of_everything_the_first_read_includes_every_acknowledged_write(data: Path) -> None:
    http = f"127.0.0.1:{free_port()}"
    url = f"http://{http}"
    up = Up.start(data)
    for _ in range(ROUNDS):
        writers = Writers(up)
        with writers.writing():
            until(lambda found=writers: found.count >= OUTCOMES)
            kill_all([psutil.Process(up.process.pid), *up.children()])
            up.process.wait()
        up, projector = started_without_folding(data, http)
        with client(url) as asking:
            until(lambda asking=asking: _is_alive(asking))
            early = {name: asking.get(f"/v1/n/{name}") for name in writers.acknowledged}
        # If the crash lost nothing, the projection is already complete.
        answered = {name: version_in(answer) for name, answer in early.items() if answer.status_code != 503}
        assert {
            name: version for name, version in answered.items() if version < writers.acknowledged[name]
        } == {}
        projector.send_signal(signal.SIGCONT)
        assert behind(url, writers.acknowledged) == {}
        until(lambda found=up: "ready" in found.said())
    assert up.stop() == 0


def test_after_a_crash_of_postgres_a_running_gateway_never_returns_an_older_state(data: Path) -> None:
    up = Up.start(data)
    for _ in range(ROUNDS):
        writers = Writers(up)
        gateway = up.child("gateway").pid
        with writers.writing():
            until(lambda found=writers: found.count >= OUTCOMES)
            server = up.child("postgres")
            kill_all([server, *server.children(recursive=True)])
            assert behind(up.url, dict(writers.acknowledged)) == {}
        assert up.child("gateway").pid == gateway
    assert up.stop() == 0


def test_after_a_lost_database_up_reports_the_wait_and_becomes_ready(
    data: Path,
) -> None:
    up = Up.start(data)
    lines = b"".join(b'{"doc":"d%d","put":%d}\n' % (number % DOCUMENTS, number) for number in range(EVENTS))
    about = {"Content-Type": "application/x-ndjson"}
    with client(up.url) as http:
        assert http.post("/v1/n/events", content=lines, headers=about).status_code == 200
    assert up.stop() == 0
    shutil.rmtree(up.data / "postgres")
    up, projector = started_without_folding(data, "127.0.0.1:0")
    until(lambda: "waiting" in up.said())
    assert f"the projection is being folded: 0 of {EVENTS + 1:,} events" in up.said()
    assert not (up.data / "endpoints.json").exists()
    projector.send_signal(signal.SIGCONT)
    until(lambda: "ready" in up.said())
    with client(up.url) as http:
        listed = http.get(f"/v1/n?limit={DOCUMENTS}").json()["items"]
    states = {item["state"] for item in listed}
    assert states == set(range(EVENTS - DOCUMENTS, EVENTS))
    assert up.stop() == 0


def _is_alive(http: httpx.Client) -> bool:
    with suppress(httpx.TransportError):
        return http.get("/healthz").status_code == 200
    return False


def _child(up: Up, name: str) -> psutil.Process | None:
    try:
        return up.child(name)
    except (ValueError, psutil.NoSuchProcess):
        return None
