"""Shards: documents are hashed to 64 partitions, and each projector folds a range of them."""

import time
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from services import Service, processor_seconds, running

from refold.bench import Figures
from refold.bench.measure import Options, Target, live
from refold.client import Refold
from refold.core.stream import parse_shard, partition_of
from refold.telemetry.logging import configure
from refold.wiring.servers import make_embedded_log, running_servers
from refold.wiring.settings import load

SHARDS = {1: ("0-63",), 2: ("0-31", "32-63")}
SECONDS = 3.0
DOCUMENTS = 1_000


def show_partitions() -> None:
    """Print where documents go."""
    print("\n▸ Shards: a document's partition is a hash of its name, a shard is a range of partitions")
    for document in ("order-1", "order-2", "order-3"):
        partition = partition_of(b"shop", document.encode())
        shard = _shard_of(partition)
        print(f"  shop/{document} is in partition {partition:2}, of the shard {shard}")
    counts = Counter(_shard_of(partition_of(b"shop", b"order-%d" % number)) for number in range(10_000))
    print("  of 10,000 such documents:", ", ".join(f"{counts[shard]:,} in {shard}" for shard in SHARDS[2]))


def _shard_of(partition: int) -> str:
    """Return the one of two shards that has a partition."""
    return next(shard for shard in SHARDS[2] if partition in parse_shard(shard))


async def compare() -> None:
    """Upload as fast as possible to a system with one projector, and to one with two."""
    print(
        f"\n▸ Shards: events that are uploaded and folded, for {SECONDS:.0f} s, on {psutil.cpu_count()} cores; "
        "processor time for each"
    )
    print("  projectors  events/s  projectors  gateway    NATS  PostgreSQL  client  together")
    for count, shards in SHARDS.items():
        rate, used = await _measure(shards)
        print(
            f"  {count:<10} {rate:9,.0f} {used['projectors']:8.0f} µs {used['gateway']:5.0f} µs"
            f" {used['NATS']:4.0f} µs {used['PostgreSQL']:8.0f} µs {used['client']:4.0f} µs"
            f" {sum(used.values()):6.0f} µs"
        )


async def _measure(shards: tuple[str, ...]) -> tuple[float, dict[str, float]]:
    """Return the events per second, and the processor time that each part took for one, in microseconds."""
    configure("error", service="example")
    with TemporaryDirectory(prefix="refold-example-") as name:
        async with AsyncExitStack() as stack:
            folder = Path(name)
            servers = await stack.enter_async_context(running_servers(folder, durability="os"))
            nats = servers.nats
            settings = servers.settings(load(data=folder, durability="os", log_level="warning"))
            await make_embedded_log(servers, settings)
            projectors = [
                await stack.enter_async_context(
                    running("projector", settings, folder, shard=shard, nats_reply_url=nats.url("reply"))
                )
                for shard in shards
            ]
            gateway = await stack.enter_async_context(
                running("gateway", settings, folder, nats_url=nats.url("gateway"))
            )
            return await _load(gateway, projectors, nats.child.pid, servers.postgres.child.pid)


async def _load(
    gateway: Service, projectors: list[Service], nats_pid: int, postgres_pid: int
) -> tuple[float, dict[str, float]]:
    clocks = {
        "projectors": partial(processor_seconds, *(projector.process for projector in projectors)),
        "gateway": partial(processor_seconds, gateway.process),
        "NATS": partial(processor_seconds, psutil.Process(nats_pid)),
        "PostgreSQL": partial(processor_seconds, psutil.Process(postgres_pid)),
        "client": time.process_time,
    }
    figures = Figures()
    before = {part: clock() for part, clock in clocks.items()}
    options = Options(rounds=1, seconds=SECONDS, documents=DOCUMENTS)
    await live(Target(http=gateway.url, nats=""), options, figures, rate=0)
    async with Refold(gateway.url) as refold:
        events = (await refold.status())["last_sequence"]
    used = {part: 1e6 * (clock() - before[part]) / events for part, clock in clocks.items()}
    return figures.samples["live, uploaded and folded", "events/s"][0], used
