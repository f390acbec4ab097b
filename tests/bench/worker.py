"""Runs one task of a measurement in this process: `python -m bench.worker MODULE:FUNCTION`, never imported.

Reads its arguments from stdin as one line of JSON, then `go`, then perhaps `stop`; at the end of stdin the parent is
gone, and it exits. Writes `ready` to stdout, then the result, each one line of JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any, Final

import orjson
import uvloop

from bench.signals import Signals
from bench.usage import peak_bytes
from refold.core.errors import RefoldError
from refold.telemetry.logging import configure

LINE_BYTES_MAX: Final = 64 * 1024 * 1024


async def main() -> None:
    """Run the task."""
    stdin = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin.buffer)
    given = orjson.loads(await stdin.readline())
    module, _, name = sys.argv[1].partition(":")
    task = getattr(importlib.import_module(module), name)
    signals = Signals(lambda: _say({"ready": True}))
    working = asyncio.create_task(task(signals, **given), name=name)
    listening = asyncio.create_task(_listen(stdin, signals), name="parent")
    await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        # The parent is gone.
        working.cancel()
        await asyncio.wait({working})
        return
    listening.cancel()
    _say(_ended(working, signals))


async def _listen(stdin: asyncio.StreamReader, signals: Signals) -> None:
    while line := await stdin.readline():
        signals.handle(line.strip().decode())


def _ended(working: asyncio.Task[Any], signals: Signals) -> dict[str, Any]:
    try:
        value = working.result()
    except RefoldError as error:
        return {"failed": f"{error.code}: {error}"}
    return {"value": value, "peak_bytes": peak_bytes("self"), "cpu_seconds": signals.cpu_seconds()}


def _say(message: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    # To stderr: stdout is for the parent.
    configure("error", service="bench")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
