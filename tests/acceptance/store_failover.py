"""Kills and wipes the first of two stores under writers and readers: reads go on, and none is older than one before.

A command of its own: `PYTHONPATH=tests python tests/acceptance/store_failover.py [--kills N] [--wipes N] [--seed N]`.
The stores are Valkey (or Redis) before PostgreSQL. Holds:

- Every acknowledged write is in the document, once; no read is older than an earlier answer about the document.
- The 99th percentile of reads while the stores change is within a bound, and no read fails.
- The breaker of the first store opens and closes once for each kill, as the metrics say.
- Subscribers to live changes get each version once and in order.
- At the end both stores have the same heads. Each resynchronization is timed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit

from refold.client.transport import Transport
from refold.core import json_text
from refold.core.errors import ServiceUnavailable
from refold.store.postgres import PostgresStore
from refold.store.redis import RedisStore
from refold.telemetry.logging import configure
from refold.wiring.servers import running_servers
from support.followers import Follower, Found, compare_followers
from support.kept import Kept, keeping
from support.redis_servers import RedisServer, redis_binary, valkey_binary
from support.services import log_of, make_site
from support.subscribers import Subscribers, reading
from support.system import free_port

WRITERS = 64
READERS = 16
FOLLOWED = 16
"""Documents that are also followed by a live stream."""
WRITE_PAUSE_SECONDS = 0.2
ANY_STATUS = tuple(range(300, 600))
READ_P99_SECONDS = 1.0
SWITCH_SECONDS = 3.0
"""So long after a kill, reads count as during the switch."""
DOWN_SECONDS = (0.5, 2.0)
RECOVERY_SECONDS = 90.0
READY_SECONDS = 60.0
_SAMPLE = re.compile(r'^refold_store_(\w+)\{store="(\w+)"\} ([0-9.e+]+)$', re.MULTILINE)


@dataclass(slots=True, kw_only=True)
class Seen:
    """What clients were answered, and what was wrong with it."""

    newest: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    reads: list[tuple[float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    answered_by: dict[str, int] = field(default_factory=dict)
    kills: list[float] = field(default_factory=list)
    resync_seconds: list[float] = field(default_factory=list)
    unacknowledged: int = 0
    is_over: bool = False

    def note(self, document: str, sequence: int) -> None:
        self.newest[document] = max(sequence, self.newest.get(document, 0))


async def write_forever(client: Transport, document: str, seen: Seen) -> None:
    """Count up a document of this writer's own; what is acknowledged is noted."""
    number = 0
    while not seen.is_over:
        number += 1
        answer = await client.request(
            "PATCH",
            f"/v1/failover/{document}",
            body=b'{"count":%d}' % number,
            headers={
                "Content-Type": "application/merge-patch+json",
                "Idempotency-Key": f"{document}-{number}",
            },
            also=ANY_STATUS,
        )
        if answer.status in (200, 201):
            seen.written[document] = number
            seen.note(document, json_text.loads(answer.body)["sequence"])
        elif answer.status in (202, 503, 504):
            seen.unacknowledged += 1
        else:
            seen.faults.append(f"write: {answer.status} {answer.body[:200]!r}")
        await asyncio.sleep(WRITE_PAUSE_SECONDS)


async def read_forever(client: Transport, chance: random.Random, seen: Seen) -> None:
    """Read documents, and compare each answer with what was answered before it was asked."""
    while not seen.is_over:
        if not seen.newest:
            await asyncio.sleep(0.1)
            continue
        document = chance.choice(sorted(seen.newest))
        before, count, began = seen.newest[document], seen.written.get(document, 0), time.monotonic()
        answer = await client.request("GET", f"/v1/failover/{document}", also=ANY_STATUS)
        seen.reads.append((began, time.monotonic() - began))
        if answer.status != 200:
            seen.faults.append(f"read: {answer.status} {answer.body[:200]!r}")
            continue
        sequence = int(answer.headers["refold-sequence"])
        store = answer.headers.get("refold-store", "memory")
        seen.answered_by[store] = seen.answered_by.get(store, 0) + 1
        if sequence < before or json_text.loads(answer.body)["count"] < count:
            seen.faults.append(f"{document}: {store} answered {sequence} after {before}")
        seen.note(document, sequence)
        await asyncio.sleep(0.01)


async def metrics(client: Transport) -> dict[tuple[str, str], float]:
    """Return the metrics of the stores."""
    text = (await client.request("GET", "/metrics")).body.decode()
    return {(name, store): float(value) for name, store, value in _SAMPLE.findall(text)}


async def kill_repeatedly(
    server: RedisServer, client: Transport, given: argparse.Namespace, seen: Seen
) -> None:
    """Kill the first store's server again and again, sometimes with its files; wait until it answers reads again."""
    chance = random.Random(f"{given.seed} kills")
    wiped = set(chance.sample(range(given.kills), given.wipes))
    for number in range(given.kills):
        answered = (await metrics(client))["reads_total", "redis"]
        await _until(client, "reads_total", answered + 20)
        seen.kills.append(time.monotonic())
        server.kill()
        await asyncio.sleep(chance.uniform(*DOWN_SECONDS))
        if number in wiped:
            for entry in server.folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        await asyncio.to_thread(server.start)
        started_at = time.monotonic()
        await _until(client, "breaker_closings_total", number + 1)
        seen.resync_seconds.append(time.monotonic() - started_at)
        print(
            f"kill {number + 1:>2}{' and wipe' if number in wiped else '':<9}"
            f" answers again after {seen.resync_seconds[-1]:.2f} s",
            flush=True,
        )


async def _until(client: Transport, name: str, value: float) -> None:
    async with asyncio.timeout(RECOVERY_SECONDS):
        while (await metrics(client))[name, "redis"] < value:  # noqa: ASYNC110 - another process counts.
            await asyncio.sleep(0.05)


async def compare(redis_url: str, dsn: str, sequence: int, seen: Seen) -> None:
    """Wait until both stores have the whole log, then compare every head."""
    stores = await RedisStore.open(redis_url), await PostgresStore.open(dsn)
    try:
        async with asyncio.timeout(RECOVERY_SECONDS):
            for store in stores:
                while min(each.read_sequence for each in await store.checkpoints()) < sequence:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        for document, count in seen.written.items():
            first, second = [await store.head("failover", document) for store in stores]
            if first is None or first != second:
                seen.faults.append(f"{document}: the stores differ")
            elif first.snapshot.state != b'{"count":%d}' % count and seen.unacknowledged == 0:
                seen.faults.append(f"{document}: {first.snapshot.state!r}, acknowledged {count}")
            elif int(re.findall(rb"\d+", first.snapshot.state or b"0")[0]) < count:
                seen.faults.append(f"{document}: an acknowledged write is lost")
    finally:
        for store in stores:
            await store.close()


@asynccontextmanager
async def running(
    given: argparse.Namespace, folder: Path
) -> AsyncIterator[tuple[RedisServer, str, str, object]]:
    """Run the servers, a projector for each store and a gateway; yield the first server and addresses."""
    port, http_port = free_port(), free_port()
    binary = valkey_binary() or redis_binary()
    assert binary is not None, "neither Valkey nor Redis is installed"
    kept = folder / "redis"
    kept.mkdir()
    server = RedisServer(binary, kept, "--port", str(port), "--appendonly", "yes")
    server.start()
    try:
        async with running_servers(folder / "data", durability="os") as servers:
            assert servers.postgres is not None
            site = await make_site(servers.nats, servers.postgres.dsn)
            url = f"redis://127.0.0.1:{port}"
            stores = {"REFOLD_STORES": f"{url} {site.dsn}"}
            services = [
                Kept(
                    name=f"projector-{name}",
                    service="projector",
                    environment={**site.environment(), **stores, "REFOLD_PROJECTOR_STORE": name},
                    log=folder / f"projector-{name}.log",
                )
                for name in ("redis", "postgres")
            ]
            services.append(
                Kept(
                    name="gateway",
                    service="gateway",
                    environment={**site.gateway_environment(http_port), **stores},
                    log=folder / "gateway.log",
                )
            )
            async with keeping(services):
                yield server, f"http://127.0.0.1:{http_port}", url, site
    finally:
        server.kill()


async def run(given: argparse.Namespace, folder: Path) -> Seen:
    """Run everything, and return what was found."""
    seen = Seen()
    async with running(given, folder) as (server, http, redis_url, site):
        # One pool has as many connections as there are writers.
        writers, client = [Transport(http, timeout_seconds=60, trace=None) for _ in range(2)]
        try:
            await _until_ready(client)
            found = Found()
            followers = [
                Follower(number, "failover", f"d{number:02}", found, is_merged=False)
                for number in range(min(FOLLOWED, given.writers))
            ]
            address = ("127.0.0.1", urlsplit(http).port or 0)
            async with reading(Subscribers(address, followers)):
                async with asyncio.TaskGroup() as tasks:
                    for number in range(given.writers):
                        tasks.create_task(write_forever(writers, f"d{number:02}", seen))
                    for number in range(READERS):
                        chance = random.Random(f"{given.seed} {number}")
                        tasks.create_task(read_forever(client, chance, seen))
                    await kill_repeatedly(server, client, given, seen)
                    seen.is_over = True
                await compare_followers(http, "failover", followers, found)
            seen.faults += found.violations
            counted = await metrics(client)
            for name in ("breaker_openings_total", "breaker_closings_total"):
                if counted[name, "redis"] != given.kills:
                    seen.faults.append(f"{name}: {counted[name, 'redis']:.0f} for {given.kills} kills")
            async with log_of(site) as log:
                await compare(redis_url, site.dsn, (await log.info()).last_sequence, seen)
        finally:
            await writers.close()
            await client.close()
    return seen


async def _until_ready(client: Transport) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            with suppress(ServiceUnavailable):
                await client.request("GET", "/readyz")
                return
            await asyncio.sleep(0.1)


def report(seen: Seen) -> None:
    """Print what was measured."""
    switching = sorted(
        seconds for began, seconds in seen.reads if any(0 <= began - at < SWITCH_SECONDS for at in seen.kills)
    )
    calm = sorted(
        seconds
        for began, seconds in seen.reads
        if all(not 0 <= began - at < SWITCH_SECONDS for at in seen.kills)
    )
    p99 = switching[int(len(switching) * 0.99)] if switching else 0.0
    calm_p99 = calm[int(len(calm) * 0.99)] if calm else 0.0
    print(f"reads      {len(seen.reads)}, answered by {seen.answered_by}")
    print(f"p99        {p99 * 1000:.0f} ms during switches, {calm_p99 * 1000:.0f} ms between them")
    print(f"writes     {sum(seen.written.values())} acknowledged, {seen.unacknowledged} pending or in doubt")
    resync = sorted(seen.resync_seconds)
    print(f"resync     {resync[len(resync) // 2]:.2f} s median, {resync[-1]:.2f} s at most")
    if p99 > READ_P99_SECONDS:
        seen.faults.append(f"p99 of reads during switches: {p99:.2f} s")


def main() -> None:
    """Run the command; exit 1 with the faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--wipes", type=int, default=2)
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    configure("error", service="failover")
    folder = Path(mkdtemp(prefix="refold-failover-"))
    seen = asyncio.run(run(given, folder))
    report(seen)
    for fault in seen.faults[:20]:
        print(f"fault      {fault}")
    if seen.faults:
        print(f"{len(seen.faults)} faults; logs in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
