"""Times how long one projector takes over from another that was killed, or only stopped.

A command of its own: `PYTHONPATH=tests python tests/acceptance/take_over.py [--times N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp

import orjson

from refold.log.jetstream import JetStreamLog
from refold.store import SHARD_LEASE_SECONDS
from refold.store.ports import SnapshotStore
from refold.telemetry.logging import configure
from refold.wiring.servers import running_servers
from support.services import (
    append_all,
    contents,
    folded_to,
    kill,
    log_of,
    make_site,
    projector,
    standing_by,
    store_of,
    undisturbed,
)

NAMES = [f"doc-{number}" for number in range(10)]
KILL_SECONDS_MAX = 2.0
STOP_SECONDS_MAX = SHARD_LEASE_SECONDS + 2.0


async def measure(times: int, folder: Path) -> dict[str, list[float]]:
    """Make another projector take over the shard repeatedly, in both ways, while events are appended."""
    found: dict[str, list[float]] = {"killed": [], "stopped": []}
    async with running_servers(folder) as servers, AsyncExitStack() as endings:
        site = await make_site(servers.nats, servers.postgres.dsn)
        log, store = [await endings.enter_async_context(it) for it in (log_of(site), store_of(site))]
        holder = await endings.enter_async_context(projector(site))
        await folded_to(store, await _append(log))
        for number in range(times):
            for how, seconds in found.items():
                standby = await endings.enter_async_context(projector(site))
                async with _appending(log):
                    await standing_by(site)
                    started_at = time.monotonic()
                    if how == "killed":
                        await kill(holder)
                    else:
                        holder.send_signal(signal.SIGSTOP)
                    await folded_to(store, await _append(log))
                    seconds.append(time.monotonic() - started_at)
                print(f"{number + 1}: {how}, folded on after {seconds[-1]:.2f} s")
                if how == "stopped":
                    holder.send_signal(signal.SIGCONT)
                    await folded_to(store, await _append(log))
                    await kill(holder)
                holder = standby
        await _compare(site, store)
    return found


async def _compare(site: object, store: SnapshotStore) -> None:
    assert await contents(store, NAMES) == await contents(await undisturbed(site), NAMES)
    print("equal to an undisturbed fold: documents, entries, chains")


@asynccontextmanager
async def _appending(log: JetStreamLog) -> AsyncIterator[None]:
    async def append() -> None:
        while True:
            await _append(log)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(append())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _append(log: JetStreamLog) -> int:
    return await append_all(log, [(name, orjson.dumps({"merge": {"at": time.time()}})) for name in NAMES])


def main() -> int:
    """Measure, print, and fail if it took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    configure("error", service="take-over")
    found = asyncio.run(measure(given.times, Path(mkdtemp(prefix="refold-take-over-"))))
    is_slow = False
    for how, bound in (("killed", KILL_SECONDS_MAX), ("stopped", STOP_SECONDS_MAX)):
        slowest = max(found[how])
        is_slow |= slowest > bound
        print(f"{how}: slowest {slowest:.2f} s, bound {bound:.1f} s")
    return 1 if is_slow else 0


if __name__ == "__main__":
    sys.exit(main())
