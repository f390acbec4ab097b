"""A history imported through the gateway: events a second, and the memory and processor of every process.

A command of its own, never a test: `PYTHONPATH=tests python tests/bench/import_history.py HISTORY`.
Durability is fsync. What it read is proven by tests/acceptance/read_back.py; everything
else is measured by `python -m bench`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from bench.system import Options, whole_system
from bench.usage import ProcessorClock, peak_bytes
from refold.client import Refold
from refold.transfer import ImportListener, import_file


async def main(history: Path) -> None:
    """Start a system, import, print a line a figure."""
    started_at = time.perf_counter()
    async with whole_system(Options()) as system, Refold(system.http) as refold:
        print(f"start     {time.perf_counter() - started_at:.2f} s to ready, durability fsync")
        listener = ImportListener(refused=lambda *_: None, progress=lambda _: None, waiting=lambda _: None)
        started_at, own, clock = time.perf_counter(), time.process_time(), ProcessorClock(system.pids)
        tally = await import_file(refold, "history", history, listener)
        seconds, own = time.perf_counter() - started_at, time.process_time() - own
        rate = tally.events / seconds
        print(
            f"import    {tally.events:,} events of {tally.lines:,} lines in {seconds:.1f} s = {rate:,.0f}/s"
        )
        print(f"processor {own:.1f} s of this process: reading lines and making patches")
        for name, used in clock.seconds().items():
            print(f"processor {used:.1f} s of {name}")
        for name, pid in system.pids:
            print(f"memory    {name} at most {peak_bytes(pid) / 2**20:.0f} MiB")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
