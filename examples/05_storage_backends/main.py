"""One log in several stores: compared, timed, one of them killed and wiped; compression, encryption, change of keys.

`python examples/05_storage_backends/main.py` starts a system in a temporary folder, and ends it. Redis takes part
where `redis-server` or `valkey-server` is installed.
"""

import asyncio
import os
import re
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from textwrap import indent
from urllib.request import urlopen

from folding import folded, read_one_by_one, read_together
from orders import CANARY, NAMESPACE, ORDERS, events, name
from redis_server import RedisServer, running_redis
from traffic import GATEWAY, READERS, WRITERS, Traffic, traffic

from refold import System, temporary_system
from refold.client import Refold
from refold.wiring.audit import run_train
from refold.wiring.servers import reach
from refold.wiring.settings import Settings
from refold.wiring.store_url import StoreUrl, file_url, read_stores
from refold.wiring.stores import store_urls

READS = 2_000
HOT = 0.2
"""The share of the orders that four fifths of the reads are of."""
CACHE_BYTES = 160 * 1024
DOWN_SECONDS = 1.5
RECOVERY_SECONDS = 30.0
SETTINGS = ("none", "snappy", "gzip:6", "zstd:1", "zstd:1, dictionary", "zstd:1, dictionary, keys")
ON_DISK = {
    "redis": "",
    "files": "",
    "postgres": "its states are plain for SQL; REFOLD_ENCRYPT=all encrypts them",
    "nats": "the log; REFOLD_LOG_KEY encrypts it",
}


async def main() -> None:
    """Start the system, and play the scenes."""
    with (
        TemporaryDirectory(prefix="refold-example-") as folder,
        running_redis(Path(folder) / "redis") as redis,
    ):
        # As `export` in a shell: for the system and for commands.
        os.environ["REFOLD_KEYS"] = str(Path(folder) / "keys.json")
        print("\n▸ A file of keys: what is stored from now on is encrypted")
        await command("keys add")
        stores = [*([redis.url] if redis else []), "postgres", "files"]
        async with (
            temporary_system(durability="os", stores=stores, cache_states_bytes=CACHE_BYTES) as system,
            Refold(system.http) as refold,
        ):
            os.environ["REFOLD_DATA"] = str(system.data)
            await fill(refold)
            settings = reach(system.data)
            await time_stores(settings, Path(folder))
            await read_mostly_some(refold)
            await try_settings(settings, Path(folder))
            search_disks(system, redis)
            if redis is None:
                print(
                    "\n▸ Redis is left out: neither redis-server nor valkey-server is installed, so no store is killed"
                )
            else:
                await kill_first_store(refold, redis)
            await change_keys(refold)
            await end()


async def fill(refold: Refold) -> None:
    """Write the log, wait until each store has it, and compare the stores."""
    count = 0
    for batch in events():
        for outcome in await refold.append(NAMESPACE, batch):
            outcome.raise_for_status()
        count += len(batch)
    names = [store["store"] for store in (await refold.status())["stores"]]
    await until_folded(refold, names)
    print(f"\n▸ One log of {count:,} events, folded into {len(names)} stores, each by a projector of its own")
    await command("store status")
    for store in names:
        if store != "postgres":
            await command(f"store compare postgres {store}")


async def until_folded(refold: Refold, names: Sequence[str]) -> None:
    """Wait until stores have all of the log."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        while True:
            stores = {store["store"]: store for store in (await refold.status())["stores"]}
            if all(stores[store]["lag_events"] == 0 for store in names):
                return
            await asyncio.sleep(0.05)


async def time_stores(settings: Settings, folder: Path) -> None:
    """Fold the log into fresh stores, one after the other, and read from each."""
    print("\n▸ The same log into an empty store of each kind; reads of it, without the gateway")
    print("            events/s  commit of one event  one read  reads/s, 64 at a time")
    chosen = [name(number) for number in Random(1).choices(range(ORDERS), k=READS)]  # noqa: S311 - not a secret.
    fresh = settings.model_copy(update={"postgres_schema": "timed"})
    for store in store_urls(settings):
        async with folded(fresh_store(store, folder / "timed"), fresh) as found:
            one = await read_one_by_one(found.store, chosen)
            many = await read_together(found.store, chosen)
            commit = 1_000 * found.commit_seconds
            print(
                f"  {store.name:8} {found.rate:9,.0f} {commit:17.1f} ms {1_000 * one:6.2f} ms {many:22,.0f}"
            )


def fresh_store(store: StoreUrl, folder: Path) -> StoreUrl:
    """Return the address of files in another folder; in the other stores, another schema is enough."""
    return files_in(folder) if store.kind == "files" else store


def files_in(folder: Path) -> StoreUrl:
    """Return the address of a store in a new folder."""
    folder.mkdir()
    return read_stores(file_url(folder))[0]


async def read_mostly_some(refold: Refold) -> None:
    """Read orders through the gateway, most of the time the same ones."""
    print(f"\n▸ {READS:,} reads through the gateway, four fifths of them of a fifth of the orders")
    chance = Random(2)  # noqa: S311 - not a secret.
    before = await metrics(refold)
    for _ in range(READS):
        share = HOT if chance.random() < 0.8 else 1
        await refold.get(NAMESPACE, name(chance.randrange(int(ORDERS * share))))
    after = await metrics(refold)
    hits, misses = (
        after[f'refold_cache_{what}_total{{cache="states"}}']
        - before[f'refold_cache_{what}_total{{cache="states"}}']
        for what in ("hits", "misses")
    )
    held = after['refold_cache_bytes{cache="states"}']
    print(
        f"  {hits / (hits + misses):.0%} of the states were in the gateway's cache, which has {held / 1024:.0f} KiB"
    )
    assert held <= CACHE_BYTES


async def metrics(refold: Refold) -> dict[str, float]:
    """Return the gateway's metrics as they are now, by name and labels."""
    await asyncio.sleep(1.1)  # What it answers is up to a second old.
    with await asyncio.to_thread(urlopen, f"{refold.url}/metrics") as response:
        text = response.read().decode()
    return {key: float(value) for key, value in re.findall(r"^(\w.*) (\S+)$", text, re.MULTILINE)}


async def try_settings(settings: Settings, folder: Path) -> None:
    """Fold the log into files under each setting; compare their bytes, and search them for a word."""
    print("\n▸ How files store the same log: REFOLD_COMPRESSION, a dictionary, REFOLD_KEYS")
    *_, trained = await run_train(settings, NAMESPACE, name="files")
    plain = 0
    print("                            on disk  saved  the word is in the files")
    for number, setting in enumerate(SETTINGS):
        compression, *others = setting.split(", ")
        is_encrypted = "keys" in others
        chosen = {"compression": compression, "encrypt": None if is_encrypted else "none"}
        dictionary = trained.content if "dictionary" in others else b""
        store = files_in(folder / f"setting-{number}")
        async with folded(store, settings.model_copy(update=chosen), dictionary=dictionary):
            pass
        # Closed, so that its file has what was in its write-ahead log.
        size, has_word = (store.folder / "refold.sqlite").stat().st_size, holds(store.folder, CANARY)
        plain = plain or size
        answer = "yes" if has_word else "no"
        print(f"  {setting:24} {size / 1e6:5.2f} MB {1 - size / plain:6.0%} {answer:>25}")
        assert not (is_encrypted and has_word)
    states = trained.plain_bytes / trained.held_out
    without, by_it = (
        1 - stored / trained.plain_bytes for stored in (trained.bytes_without, trained.bytes_with)
    )
    print(
        f"  a state has {states:.0f} bytes (mean): {without:.0%} saved by zstd, {by_it:.0%} by zstd and the dictionary"
    )


def holds(folder: Path, word: str) -> bool:
    """Return whether a word is in any file of a folder."""
    return any(word.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def search_disks(system: System, redis: RedisServer | None) -> None:
    """Search the disks of the running system for a word."""
    print(f"\n▸ Where is the word {CANARY} on the disks of the running system?")
    folders = {"redis": redis.folder} if redis else {}
    folders |= {part: system.data / part for part in ("files", "postgres", "nats")}
    for part, why in ON_DISK.items():
        if part in folders:
            print(f"  {part:9} {'yes' if holds(folders[part], CANARY) else 'no':4} {why}".rstrip())
    assert not any(holds(folders[part], CANARY) for part in folders if part in {"redis", "files"})


async def kill_first_store(refold: Refold, redis: RedisServer) -> None:
    """Kill the store that reads prefer and remove its files, while clients read and write; start it again."""
    print(f"\n▸ kill -9 of Redis, and its files removed, while {READERS} clients read and {WRITERS} write")
    async with traffic(refold) as seen:
        await until_answered(seen, "redis", time.monotonic())
        redis.kill()
        redis.wipe()
        await asyncio.sleep(DOWN_SECONDS)
        await asyncio.to_thread(redis.start)
        started = time.monotonic()
        await until_answered(seen, "redis", started)
        resync = time.monotonic() - started
        await asyncio.sleep(1)
    show_traffic(seen)
    found = await metrics(refold)
    opened, closed = (
        found[f'refold_store_breaker_{what}_total{{store="redis"}}'] for what in ("openings", "closings")
    )
    print(f"  breaker  opened {opened:.0f}, closed {closed:.0f} time")
    print(f"  resync   Redis answered reads {resync:.1f} s after it was started, empty")
    await until_folded(refold, ["redis", "postgres"])
    await command("store compare postgres redis")


async def until_answered(seen: Traffic, store: str, after: float) -> None:
    """Wait until a store has answered a read that was sent later than a time."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        while seen.last_answer.get(store, 0) <= after:  # noqa: ASYNC110 - a thread notes it.
            await asyncio.sleep(0.01)


def show_traffic(seen: Traffic) -> None:
    """Print what clients have seen."""
    by = ", ".join(f"{seen.answered[who]:,} by {who}" for who in ("redis", "postgres", "files", GATEWAY))
    slowest = sorted(seen.seconds)
    p99 = 1_000 * slowest[int(0.99 * len(slowest))]
    print(f"  reads    {seen.answered.total():,} answered, {by}; not answered: {seen.unanswered}")
    print(f"  older    {seen.older} answers older than one before")
    print(f"  time     99 of 100 reads within {p99:.0f} ms, all within {1_000 * slowest[-1]:.0f} ms")
    print(f"  writes   {seen.written.total():,} acknowledged, all of them are there")


async def change_keys(refold: Refold) -> None:
    """Change the key that all is encrypted with, while clients read and write."""
    print("\n▸ Another key, while clients read and write")
    async with traffic(refold) as seen:
        await command("keys add")
        await command("keys retire 1", status=1)
        await command("keys reencrypt --rate 20000")
        await command("keys retire 1")
    print(
        f"  {seen.answered.total():,} reads and {seen.written.total():,} writes meanwhile, none without an answer"
    )


async def end() -> None:
    """Show each store, and check those that keep every version against the log."""
    print("\n▸ At the end")
    for line in ("store status", "verify", "verify --store files"):
        await command(line)


async def command(line: str, *, status: int = 0) -> None:
    """Run a command of `refold`, as one would in a terminal; print its output, and check its exit code."""
    print(f"  $ refold {line}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "refold", *line.split()), stdout=PIPE, stderr=STDOUT
    )
    output, _ = await process.communicate()
    print(indent(output.decode(), "    "), end="")
    assert process.returncode == status, (line, process.returncode)


asyncio.run(main())
