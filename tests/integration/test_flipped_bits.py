"""One flipped bit in any stored value is found by who reads it, whatever the value is encoded by."""

from __future__ import annotations

import inspect
from collections import defaultdict
from contextlib import AsyncExitStack
from random import Random

import asyncpg
import pytest

from refold.audit.stores import Listener as Comparing
from refold.audit.stores import Side, compare_stores
from refold.audit.verify import Listener, Scope, verify
from refold.core.errors import StoreDamaged
from refold.log.memory import MemoryLog
from refold.projector.replay import begin_replay
from refold.store.layers.compression import Compression, Method
from refold.store.memory import MemoryStore
from support.encrypted import encryption
from support.flipping import Recorded, postgres_sites, redis_sites, sqlite_sites
from support.projection import ROOMY, append
from support.stores import postgres_stores, redis_stores, sqlite_stores

NAMESPACE = "n"
LOG_ID = "log-1"
DICTIONARY = b'{"actor":"ann","text":"what all of them have","n":1,"k":[1,2,3]}' * 40
CODECS = {
    "raw": lambda: Compression(Method.none),
    "snappy": lambda: Compression(Method.snappy, bytes_min=0),
    "gzip": lambda: Compression(Method.gzip, bytes_min=0),
    "zstd": lambda: Compression(bytes_min=0),
    "dictionary": Compression,
    "encrypted": lambda: encryption(LOG_ID),
}
STORES = {
    "files": CODECS,
    "redis": ["raw", "dictionary", "encrypted"],
    "postgres": ["raw", "zstd", "encrypted"],
}
CASES = [(store, codec) for store, codecs in STORES.items() for codec in codecs]


@pytest.fixture
def place(request, case, tmp_path):
    """Where the store is: a folder, a Redis server, or the address of a database."""
    if case[0] == "files":
        return tmp_path
    return request.getfixturevalue("redis_server" if case[0] == "redis" else "postgres_dsn")


@pytest.fixture
async def log():
    made = MemoryLog(LOG_ID)
    for number in range(140):
        await append(made, "paged", {"merge": {"n": number, "text": "what all of them have"}})
    await append(made, "small", {"put": {"n": 1, "text": "what all of them have", "k": [1, 2, 3]}})
    await append(made, "small", {"patch": [{"op": "test", "path": "/n", "value": 2}]})
    await append(made, "gone", {"put": [1]})
    await append(made, "gone", {"delete": True})
    return made


async def filled(log, store):
    loop = await begin_replay(log, store, ROOMY, range(64))
    await loop.run((await log.info()).last_sequence)
    return store


async def flip_and_read(log, store, sites, rng, rounds):
    """Flip one bit of each kind of value, look for it in every way, and flip it back."""
    memory = await filled(log, MemoryStore())
    assert await read(log, memory, store) == (set(), [])
    kinds = defaultdict(list)
    for site in sites:
        kinds[site.kind].append(site)
    expected = "verify" if hasattr(store, "read_snapshot") else "read"
    for _ in range(rounds):
        for kind, some in kinds.items():
            site = rng.choice(some)
            changed = site.flipped(rng)
            await done(site.replace(site.stored, changed))
            if "dictionaries" in kind:
                store._rows.forget()
            how, wrong = await read(log, memory, store)
            await done(site.replace(changed, site.stored))
            assert not wrong, (kind, site.stored, changed)
            assert expected in how, (kind, site.stored, changed)
    return set(kinds)


async def read(log, memory, store):
    """Return how a damage was found, and answers that differ from those of the store in memory."""
    how, different = set(), []
    if hasattr(store, "read_snapshot"):
        found = []
        try:
            await verify(log, store, Listener(difference=found.append, progress=lambda _: None), Scope())
        except StoreDamaged:
            how.add("verify")
        how |= {"verify" for _ in found}
    try:
        comparing = Comparing(different.append, lambda _: None)
        await compare_stores(Side("memory", memory), Side("store", store), comparing)
        asked = {"limit": 9, "before_sequence": None}
        for document in (None, "small"):
            rejections = [await side.rejections(NAMESPACE, document, **asked) for side in (memory, store)]
            different += [] if rejections[0] == rejections[1] else [rejections]
    except StoreDamaged:
        how.add("read")
    wrong = [each for each in different if not getattr(each, "found", "").startswith("unreadable")]
    how |= {"read" for _ in different}
    return how, wrong


async def done(replaced):
    if inspect.isawaitable(replaced):
        await replaced


async def run(case, rounds, log, place):
    kind, name = case
    codec, rng = Recorded(CODECS[name]()), Random(f"{case} {rounds}")
    async with AsyncExitStack() as stack:
        if kind == "files":
            opening = sqlite_stores(place, codec=codec)
        elif kind == "redis":
            stack.callback(place.send, b"FLUSHALL")
            opening = redis_stores(place.url, codec=codec)
        else:
            is_encrypted = name == "encrypted"
            opening = postgres_stores(place, codec=codec, is_history_encrypted=is_encrypted)
        store = await (await stack.enter_async_context(opening))()
        if name == "dictionary":
            await store.bind(LOG_ID)
            await store.add_dictionary(NAMESPACE, DICTIONARY)
        await filled(log, store)
        if kind == "files":
            sites = stack.enter_context(sqlite_sites(place, codec))
        elif kind == "redis":
            sites = stack.enter_context(redis_sites(place.path, codec))
        else:
            settings = {"search_path": "refold"}
            connection = await asyncpg.connect(place, ssl=False, server_settings=settings)
            stack.push_async_callback(connection.close)
            sites = await postgres_sites(connection, codec)
        return await flip_and_read(log, store, sites, rng, rounds)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_flipped_bit_is_found(case, log, place):
    kinds = await run(case, 1, log, place)
    assert len(kinds) >= {"files": 5, "redis": 4, "postgres": 2}[case[0]] + (case[1] == "dictionary")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_any_flipped_bit_is_found(case, log, place):
    await run(case, 40, log, place)
