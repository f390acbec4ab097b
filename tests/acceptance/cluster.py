"""A cluster of three NATS servers, killed one after another while the system on it is written to: run by hand.

`PYTHONPATH=tests python tests/acceptance/cluster.py --rounds 10`; ends with 1 when an acknowledged write is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from refold.core.errors import LogError
from refold.embedded.folder import open_folder
from refold.embedded.postgres import start_postgres
from refold.wiring.servers import open_log
from support.clustered import Clustered, clustered
from support.delivered import Delivered, urls

WRITERS = 4


async def main(rounds: int) -> int:
    """Kill and restart the servers in turn; then compare the log and the projection with the acknowledged writes."""
    with tempfile.TemporaryDirectory() as name, await open_folder(Path(name) / "postgres") as folder:
        postgres = await start_postgres(folder)
        try:
            async with clustered(Path(name) / "nats", postgres.dsn) as cluster:
                lost = await soak(cluster, rounds)
                await two_down(cluster)
        finally:
            await postgres.stop()
    return 1 if lost else 0


async def soak(cluster: Clustered, rounds: int) -> list[int]:
    """Write continuously; kill the leader in every other round, otherwise the next server in turn."""
    numbers, is_over = count(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(WRITERS):
            tasks.create_task(write(cluster, numbers, is_over))
        for number in range(rounds):
            killed = await cluster.leader() if number % 2 == 0 else cluster.servers[number % 3]
            await kill_and_restart(cluster, killed, number)
        is_over.set()
    lost = await cluster.lost()
    written = len({number for _, number in cluster.acknowledged.values()})
    print(
        f"{written} writes acknowledged, {cluster.tries} tries, longest {cluster.longest_seconds:.1f} s; lost: {lost}"
    )
    return lost


async def write(cluster: Clustered, numbers: count[int], is_over: asyncio.Event) -> None:
    """Write until stopped."""
    while not is_over.is_set():
        await cluster.write(next(numbers))


async def kill_and_restart(cluster: Clustered, killed: Delivered, number: int) -> None:
    """Kill one server, check that writes continue, restart it and wait until it has caught up."""
    is_leader, before = killed is await cluster.leader(), len(cluster.acknowledged)
    killed.kill()
    started_at = time.monotonic()
    await cluster.until_acknowledged(before + 2 * WRITERS)
    gone_on = time.monotonic() - started_at
    await asyncio.to_thread(killed.start)
    await cluster.until_whole()
    whole = time.monotonic() - started_at
    role = "leader" if is_leader else "follower"
    print(
        f"round {number + 1}: {killed.name} ({role}) killed; writes after {gone_on:.1f} s, whole {whole:.1f} s"
    )


async def two_down(cluster: Clustered) -> None:
    """Check that one server of three acknowledges nothing, and that two do again."""
    away = cluster.servers[:2]
    for server in away:
        server.kill()
    with suppress(LogError):
        await open_log(urls(cluster.servers[2:], "gateway"), "alone")
        sys.exit("a server alone speaks for the log")
    await asyncio.to_thread(away[0].start)
    started_at = time.monotonic()
    await cluster.write(10**9)
    print(f"two of three down, one back: a write after {time.monotonic() - started_at:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    sys.exit(asyncio.run(main(parser.parse_args().rounds)))
