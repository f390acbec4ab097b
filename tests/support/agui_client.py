"""The official AG-UI client (npm `@ag-ui/client`) in Node, driven by commands."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from support import node

PACKAGE = Path(__file__).parent / "agui"


class Session:
    """A running Node with its clients, by name."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.warnings: list[str] = []

    def do(self, client: str, what: str, **given: Any) -> dict[str, Any]:
        """Send one command; wait for its answer."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(orjson.dumps({"client": client, "do": what, **given}) + b"\n")
        requests.flush()
        answer: dict[str, Any] = orjson.loads(answers.readline())
        self.warnings = answer.pop("warnings")
        return answer


@contextmanager
def session(package: Path) -> Iterator[Session]:
    """Start it in a folder where the package is installed; it ends with its input."""
    command = [node.program("node"), str(package / "session.mjs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Session(process)
