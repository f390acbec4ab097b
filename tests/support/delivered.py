"""NATS servers started from the configurations in infra/nats, one alone or three together, on ports of their own.

A test may kill one and start it again on its port and store.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from refold.embedded.nats import NATS_USERS, NatsUser, nats_program

TOP = Path(__file__).parents[2]
INFRA = TOP / "infra"
PASSWORDS = {user: f"p-of-{user}" for user in NATS_USERS}
START_SECONDS = 30
LOG_BYTES = 4 * 1024**3
PORTS = range(20_000, 32_000)
"""Below the ephemeral ports, so that a killed server finds its own free."""


@dataclass
class Delivered:
    """One server: its folder, its ports, its process."""

    name: str
    home: Path
    port: int
    route_port: int
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    def url(self, user: NatsUser) -> str:
        """Return the address with a user's name and password."""
        return f"nats://{user}:{PASSWORDS[user]}@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait for its greeting."""
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stderr=log, cwd=self.home)
        deadline = time.monotonic() + START_SECONDS
        while not self._greets():
            log_text = (self.home / "server.log").read_text()
            assert self.process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as peer:
                return peer.recv(5) == b"INFO "
        except OSError:
            return False


@contextmanager
def one_server(path: Path) -> Iterator[Delivered]:
    """Run one server by infra/nats/refold.conf."""
    server = _delivered("refold", "refold.conf", path, (_steady_port(), _steady_port()), {})
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def three_servers(path: Path) -> Iterator[list[Delivered]]:
    """Run three servers by infra/nats/cluster/server.conf."""
    ports = [(_steady_port(), _steady_port()) for _ in range(3)]
    routes = json.dumps([f"nats://server:pserver@127.0.0.1:{route}" for _, route in ports])
    servers = []
    for number, both in enumerate(ports, start=1):
        name = f"nats-{number}"
        given = {"NATS_SERVER_NAME": name, "NATS_SERVER_PASSWORD": "pserver", "NATS_ROUTES": routes}
        servers.append(_delivered(name, "cluster/server.conf", path / name, both, given))
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


def urls(servers: list[Delivered], user: NatsUser) -> str:
    """Return the addresses of all, as the setting expects them."""
    return ",".join(server.url(user) for server in servers)


def variables() -> dict[str, str]:
    """Return the variables that every server needs."""
    return {f"NATS_{user.upper()}_PASSWORD": word for user, word in PASSWORDS.items()} | {
        "NATS_LOG_BYTES": str(LOG_BYTES)
    }


def _search_path() -> str:
    """Return a search path that begins with the wheel's server."""
    return f"{nats_program().parent}:{os.environ['PATH']}"


def _steady_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _delivered(
    name: str, configuration: str, home: Path, ports: tuple[int, int], given: dict[str, str]
) -> Delivered:
    """Copy the configuration; only its places differ: a port, a folder, and loopback."""
    shutil.copytree(INFRA / "nats", home / "nats")
    path = home / "nats" / configuration
    text, (port, route_port), monitor_port = path.read_text(), ports, _steady_port()
    places = {
        "\nport: 4222\n": f'\nhost: "127.0.0.1"\nport: {port}\n',
        '\nhttp: "127.0.0.1:8222"\n': f'\nhttp: "127.0.0.1:{monitor_port}"\n',
        'store_dir: "/data"\n': f'store_dir: "{home}/data"\n',
    }
    if given:
        places["    port: 6222\n"] = f'    host: "127.0.0.1"\n    port: {route_port}\n'
    for there, here in places.items():
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    path.write_text(text)
    return Delivered(
        name=name,
        home=home,
        port=port,
        route_port=route_port,
        command=[str(home / "nats/start.sh"), "--config", str(path)],
        environment={
            **os.environ,
            **variables(),
            **given,
            "NATS_DATA": f"{home}/data",
            "NATS_MONITOR_PORT": str(monitor_port),
            "PATH": _search_path(),
        },
    )
