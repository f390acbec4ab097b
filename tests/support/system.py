"""The real system for tests, one a session: NATS, PostgreSQL, projector and gateway, wired as `refold up` does.

`system` yields its addresses; tests/conftest.py imports it. Every test uses a namespace of its own
(`System.namespace`), because the log is shared.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import asyncpg
import httpx
import pytest

from refold.embedded.folder import open_folder
from refold.embedded.nats import NatsServer, start_nats
from refold.embedded.postgres import DATABASE, PostgresServer
from refold.embedded.process import LOOPBACK, Command, choose_port, tied
from refold.wiring.servers import make_log
from refold.wiring.settings import environment_without, handed_on, load
from support.servers import complete

READY_SECONDS = 60
_numbers = count(1)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running projector or gateway; its log lines are in a file."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> int:
        """Interrupt it as a terminal would, and return its exit code."""
        self.process.terminate()
        return self.process.wait(READY_SECONDS)


@dataclass(frozen=True, kw_only=True)
class System:
    """The addresses of the system."""

    url: str
    nats: NatsServer
    postgres_dsn: str
    projector: Service
    gateway: Service
    gateway_environment: Mapping[str, str]

    def namespace(self) -> str:
        """Return a namespace that no other test uses."""
        return f"t{next(_numbers)}"


@pytest.fixture(scope="session")
def system(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The whole system."""
    with running_system(postgres_server, tmp_path_factory.mktemp("system")) as running:
        yield running


@contextmanager
def running_system(postgres_server: PostgresServer, path: Path, **settings: object) -> Iterator[System]:
    """Run a system with a log and a database of its own."""
    database = f"system_{next(_numbers)}"
    complete(_execute(postgres_server.dsn, f"CREATE DATABASE {database}"))
    dsn = postgres_server.dsn.removesuffix(DATABASE) + database
    with ExitStack() as endings:
        folder = endings.enter_context(complete(open_folder(path)))
        nats = complete(start_nats(folder, sync="os"))
        endings.callback(lambda: complete(nats.stop()))
        complete(make_log(nats.url("administrator")))
        port = free_port()
        given = {
            "http": f"127.0.0.1:{port}",
            "postgres_url": dsn,
            "nats_reply_url": nats.url("reply"),
            **settings,
        }
        started = {}
        for name in ("projector", "gateway"):
            handed = handed_on(load(), nats_url=nats.url(name), **given)
            made = environment_without() | {
                f"REFOLD_{key.upper()}": str(value) for key, value in handed.items()
            }
            started[name] = start_service(name, made, path / f"{name}.log")
            endings.callback(started[name].stop)
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, started)
        yield System(url=url, nats=nats, postgres_dsn=dsn, gateway_environment=made, **started)


def start_service(name: str, given: Mapping[str, str], log: Path) -> Service:
    """Start a service as a process of its own, which ends when this one does."""
    arguments = (sys.executable, "-m", "refold.wiring.service", name)
    command = tied(Command(name=name, arguments=arguments, stop_signal=signal.SIGTERM))
    with log.open("ab") as file:
        process = subprocess.Popen(command, env=dict(given), stderr=file, stdin=subprocess.DEVNULL)
    return Service(process=process, log=log)


def wait_ready(url: str, services: Mapping[str, Service]) -> None:
    """Wait until the gateway is ready."""
    deadline = time.monotonic() + READY_SECONDS
    while not _is_ready(url):
        for name, service in services.items():
            if service.process.poll() is not None:
                pytest.fail(f"{name} ended; its log:\n{service.log.read_text()}")
        if time.monotonic() > deadline:
            logs = "\n".join(f"{name}:\n{service.log.read_text()}" for name, service in services.items())
            pytest.fail(f"not ready in {READY_SECONDS} s\n{logs}")
        time.sleep(0.05)


def free_port() -> int:
    """Choose a port that is free now and that no outgoing connection takes."""
    return choose_port(LOOPBACK)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, ssl=False)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
