"""`refold up` as a process, as a user runs it. For tests of the whole system.

`async with` or `with` are not needed: `start` returns when it is ready, `stop` when it has ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import psutil

READY_SECONDS = 60.0
END_SECONDS = 60.0


class Up:
    """One running `refold up` in a data folder."""

    def __init__(self, data: Path, *arguments: str, **variables: str) -> None:
        self.data = data
        self.output = data.with_name(f"{data.name}.out")
        command = [sys.executable, "-m", "refold", "up", "--data", str(data), *arguments]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment(**variables)
            )

    @classmethod
    def start(cls, data: Path, *arguments: str, **variables: str) -> Up:
        """Start it on free ports and wait until it is ready."""
        up = cls(data, "--http", "127.0.0.1:0", "--nats-port", "0", *arguments, **variables)
        until(lambda: "ready" in up.said() or up.process.poll() is not None)
        assert up.process.poll() is None, up.said()
        return up

    def said(self) -> str:
        """Everything it has printed so far."""
        return self.output.read_text()

    def endpoints(self) -> dict[str, Any]:
        """What it wrote once it was ready."""
        found: dict[str, Any] = json.loads((self.data / "endpoints.json").read_bytes())
        return found

    @property
    def url(self) -> str:
        """The gateway's address."""
        return str(self.endpoints()["http"])

    def children(self) -> list[psutil.Process]:
        """Every process that it has started, directly or not."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        """Return the child whose command line contains a text."""
        direct = psutil.Process(self.process.pid).children()
        (found,) = [it for it in direct if any(name in Path(part).name for part in _command_of(it)[:4])]
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it and wait for its exit."""
        self.process.send_signal(number)
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait(END_SECONDS)


def _command_of(process: psutil.Process) -> list[str]:
    """Return a process's command line, empty if it has ended since it was listed."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def environment(**others: str) -> dict[str, str]:
    """This process's environment without settings of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REFOLD_")}
    return {**kept, "COLUMNS": "120", **others}


def run_refold(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    command = [sys.executable, "-m", "refold", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, env=environment(**variables), check=False
    )


def execute(up: Up, *statements: str) -> None:
    """Execute SQL in the system's database."""

    async def run() -> None:
        connection = await asyncpg.connect(up.endpoints()["postgres"])
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


def until(holds: Any, *, seconds: float = READY_SECONDS) -> Any:
    """Poll until a condition holds; return its value."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.02)
    return found
