"""Caches: a gateway keeps states that it has read, up to a bound. How many reads find theirs there?"""

import asyncio
import time
from random import Random
from urllib.parse import urlsplit

from services import metrics_of, process_of, processor_seconds, running

from refold import System
from refold.client import Refold
from refold.embedded import read_passwords
from refold.wiring.servers import reach

NAMESPACE = "catalogue"
DOCUMENTS, VERSIONS, DOCUMENT_BYTES = 200, 10, 10_000
READS, IN_FLIGHT = 3_000, 16
HOT = 0.2
"""The share of the versions that four fifths of the reads are of."""
SIZES = {"none": 0, "4 MB": 2**22, "64 MB": 2**26}


async def compare_sizes(system: System) -> None:
    """Read the same versions through gateways with caches of different sizes."""
    count = DOCUMENTS * VERSIONS
    print(
        f"\n▸ Caches: {READS:,} reads of {count:,} versions of {DOCUMENT_BYTES // 1_000} KB, "
        "four fifths of them of a fifth of the versions"
    )
    await _fill(system)
    settings = reach(system.data)
    user = f"gateway:{read_passwords(system.data)['gateway']}"
    nats_url = f"nats://{user}@{urlsplit(system.nats).netloc}"
    print("  REFOLD_CACHE_STATES_BYTES  from the cache  reads/s  processor time for one  the cache has")
    shares = []
    for name, size in SIZES.items():
        async with running(
            "gateway", settings, system.data, nats_url=nats_url, cache_states_bytes=size
        ) as gateway:
            parts = gateway.process, process_of("postgres")
            before = processor_seconds(*parts)
            rate = await _read(gateway.url)
            used = (processor_seconds(*parts) - before) / READS
            found = await metrics_of(gateway.url)
            hits, misses = (
                found[f'refold_cache_{what}_total{{cache="states"}}'] for what in ("hits", "misses")
            )
            held = found['refold_cache_bytes{cache="states"}']
            shares.append(hits / (hits + misses))
            print(
                f"  {name:25} {shares[-1]:15.0%} {rate:8,.0f} {1e6 * used:20,.0f} µs {held / 2**20:11.1f} MB"
            )
            assert held <= size
    assert shares == sorted(shares)


async def _fill(system: System) -> None:
    chance = Random(1)  # noqa: S311 - not a secret.
    names = [f"article-{number}" for number in range(DOCUMENTS)]
    async with Refold(system.http) as refold:
        states = [{"price": 1, "about": chance.randbytes(DOCUMENT_BYTES // 2).hex()} for _ in names]
        lines = [{"doc": name, "put": state} for name, state in zip(names, states, strict=True)]
        await refold.append(NAMESPACE, lines, committed=True)
        for version in range(2, VERSIONS + 1):
            patch = [{"op": "replace", "path": "/price", "value": version}]
            await refold.append(NAMESPACE, [{"doc": name, "patch": patch} for name in names], committed=True)


async def _read(url: str) -> float:
    """Read versions, check each, and return the reads per second."""
    chance = Random(2)  # noqa: S311 - not a secret.
    points = [
        (f"article-{number}", version) for version in range(1, VERSIONS + 1) for number in range(DOCUMENTS)
    ]
    chance.shuffle(points)
    hot = points[: int(HOT * len(points))]
    left = iter([chance.choice(hot if chance.random() < 0.8 else points) for _ in range(READS)])
    async with Refold(url) as refold:

        async def read() -> None:
            for name, version in left:
                found = await refold.get(NAMESPACE, name, version=version)
                assert found.state["price"] == version

        begun = time.monotonic()
        await asyncio.gather(*(read() for _ in range(IN_FLIGHT)))
        return READS / (time.monotonic() - begun)
