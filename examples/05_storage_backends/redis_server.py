"""Redis or Valkey, if one is installed: started, killed, wiped and started again."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 20.0


class RedisServer:
    """A server on a free port, which appends each change to a file in `folder`."""

    def __init__(self, program: str, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._address = free.getsockname()
        port = str(self._address[1])
        self.url = f"redis://127.0.0.1:{port}"
        self._command = [program, "--port", port, "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--save", "", "--appendonly", "yes"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        ends_at = time.monotonic() + START_SECONDS
        while not self._is_answering():
            assert self._process.poll() is None, "the server has ended"
            assert time.monotonic() < ends_at, "the server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it: `kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wipe(self) -> None:
        """Remove all that it has on disk."""
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def _is_answering(self) -> bool:
        try:
            with socket.create_connection(self._address, timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def running_redis(folder: Path) -> Iterator[RedisServer | None]:
    """Run a server for the block; None where neither program is installed."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        yield None
        return
    server = RedisServer(program, folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
