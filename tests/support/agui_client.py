"""The official AG-UI client (npm `@ag-ui/client`), driven by commands: in Node, or in a page in Chromium."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, Timer
from typing import Any

import orjson

from support import node

PACKAGE = Path(__file__).parent / "agui"
ANSWER_SECONDS = 60


class Session:
    """A running program with its clients, by name."""

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange
        self.warnings: list[str] = []

    def do(self, client: str, what: str, **given: Any) -> dict[str, Any]:
        """Send one command; wait for its answer."""
        answer: dict[str, Any] = orjson.loads(
            self._exchange(orjson.dumps({"client": client, "do": what, **given}))
        )
        self.warnings = answer.pop("warnings")
        return answer


@contextmanager
def in_node(package: Path) -> Iterator[Session]:
    """Start the client in Node; the package is installed in this folder."""
    command = [node.program("node"), str(package / "session.mjs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None

        def exchange(command: bytes) -> bytes:
            silence = Timer(ANSWER_SECONDS, process.kill)
            silence.start()
            requests.write(command + b"\n")
            requests.flush()
            answer = answers.readline()
            silence.cancel()
            assert answer, f"no answer to {command!r}"
            return answer

        yield Session(exchange)


class _Page(BaseHTTPRequestHandler):
    """Serves the page and its script; `/next` takes an answer and waits for a command."""

    server: _PageServer

    def do_GET(self) -> None:
        script = (
            self.server.script if self.path == "/page.js" else b"<script type=module src=/page.js></script>"
        )
        self._send(200, script, "text/javascript" if self.path == "/page.js" else "text/html")

    def do_POST(self) -> None:
        self.server.answers.put(self.rfile.read(int(self.headers["Content-Length"])))
        command = self.server.commands.get()
        self._send(200 if command else 410, command, "application/json")

    def _send(self, status: int, body: bytes, media: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _PageServer(ThreadingHTTPServer):
    def __init__(self, script: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.script = script
        self.commands: SimpleQueue[bytes] = SimpleQueue()
        self.answers: SimpleQueue[bytes] = SimpleQueue()


class Browser:
    """A page of its own origin, which Chromium opens."""

    def __init__(self, server: _PageServer, profile: Path) -> None:
        self._server = server
        self._profile = profile
        self.origin = f"http://127.0.0.1:{server.server_port}"

    @contextmanager
    def page(self) -> Iterator[Session]:
        """Open the page."""
        command = [
            program(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={self._profile}",
        ]
        server = self._server

        def exchange(command: bytes) -> bytes:
            server.commands.put(command)
            return server.answers.get(timeout=ANSWER_SECONDS)

        with subprocess.Popen([*command, self.origin], stderr=subprocess.DEVNULL) as process:
            try:
                server.answers.get(timeout=ANSWER_SECONDS)
                yield Session(exchange)
            finally:
                server.commands.put(b"")
                process.terminate()


@contextmanager
def browser(package: Path, profile: Path) -> Iterator[Browser]:
    """Serve the page: the client of the package as one script, with what it depends on."""
    esbuild = package / "node_modules" / ".bin" / "esbuild"
    command = [str(esbuild), "page.mjs", "--bundle", "--format=esm", "--log-level=error"]
    script = subprocess.run(command, cwd=package, capture_output=True, check=True, timeout=ANSWER_SECONDS)
    with _PageServer(script.stdout) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Browser(server, profile)
        finally:
            server.shutdown()
            thread.join()


def program() -> str:
    """Find Chromium; without it a test is skipped, in CI it fails."""
    return shutil.which("chromium") or node.lacking("chromium is not on this machine")
