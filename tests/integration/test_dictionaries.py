"""A dictionary that is added while a projector writes and a gateway reads is used by both without a restart."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import AsyncExitStack
from itertools import count

import pytest

from refold.core.errors import Refused, StoreDamaged
from refold.store.layers import Place, dictionaries
from refold.store.layers.compression import Compression
from refold.store.layers.training import sample_states, train
from refold.store.sqlite.swap import SqliteSchemaSwap
from refold.wiring.audit import run_train
from refold.wiring.settings import load
from refold.wiring.stores import dictionary_store
from support.encrypted import encryption
from support.scribe import NAMESPACE
from support.stores import LOG_ID, all_entries, begin, redis_stores, sqlite_stores

CANARY = "canary-91ab"


@pytest.fixture(params=["files", "files encrypted", "redis", "redis encrypted"])
async def open_store(request, tmp_path):
    """Open stores as processes do: each with a codec of its own."""
    is_encrypted = "encrypted" in request.param
    if request.param.startswith("redis"):
        opening = redis_stores(request.getfixturevalue("redis_url"))
    else:
        opening = sqlite_stores(tmp_path)
    async with AsyncExitStack() as stack:
        opener = await stack.enter_async_context(opening)

        async def open_one(**options):
            codec = encryption(LOG_ID) if is_encrypted else Compression()
            return await opener(codec=codec, **options), codec

        yield open_one


def order(number):
    rng = random.Random(number)
    customer = {"name": rng.choice(["Anna", "Bert", CANARY]), "country": rng.choice(["DE", "FR", "IT"])}
    lines = [{"sku": f"s-{rng.randrange(9_999)}", "count": rng.randrange(9), "price": 1999} for _ in range(3)]
    return {"status": "open", "number": number, "customer": customer, "lines": lines, "currency": "EUR"}


ORDERS = [json.dumps(order(number)).encode() for number in range(800)]
TRAINED = train(NAMESPACE, ORDERS, len(ORDERS), "zstd:1", 512)


async def test_the_writer_uses_a_new_dictionary_and_every_reader_finds_it(open_store):
    (writer, codec), (reader, _), (trainer, _) = [await open_store() for _ in range(3)]
    scribe = await begin(writer)
    for number in range(3):
        scribe.put(f"d{number}", order(number))
    await writer.commit(scribe.commit())
    numbers = [await trainer.add_dictionary(NAMESPACE, TRAINED.content) for _ in range(2)]
    assert numbers[0] < numbers[1]
    assert NAMESPACE not in codec.dictionaries.newest
    scribe.put("d1", order(11))
    scribe.cut("d1")
    scribe.put("d2", order(12))
    scribe.publish("d2", {"merge": 1, "base": 99, "currency": "EUR"})
    await writer.commit(scribe.commit())
    assert codec.dictionaries.newest[NAMESPACE].number == numbers[1]
    later, _ = await open_store()
    for store in (reader, later):
        for number in range(3):
            head = await store.head(NAMESPACE, f"d{number}")
            assert head.snapshot == scribe.snapshots[NAMESPACE, f"d{number}"][-1]
            found = [entry for run in await all_entries(store, f"d{number}") for entry in run]
            assert found == scribe.entries[NAMESPACE, f"d{number}"]
        assert len(await store.rejections(NAMESPACE, "d2", limit=9, before_sequence=None)) == 1
    fresh, _ = await open_store()
    assert (
        len((await fresh.list_documents(NAMESPACE, prefix="", where=None, limit=9, cursor=None)).heads) == 3
    )
    other, _ = await open_store()
    assert len(await other.load([(NAMESPACE, "d1"), (NAMESPACE, "d2")])) == 2


async def test_what_is_written_to_an_emptied_redis_needs_no_dictionary_that_it_lost(redis_url, redis_server):
    async with redis_stores(redis_url) as opener:
        writer, reader = await opener(codec=Compression()), await opener(codec=Compression())
        scribe = await begin(writer)
        await writer.add_dictionary(NAMESPACE, TRAINED.content)
        scribe.put("d", order(1))
        await writer.commit(scribe.commit())
        redis_server.send(b"FLUSHALL")
        scribe = await begin(writer)
        scribe.put("d", order(2))
        await writer.commit(scribe.commit())
        assert (await reader.head(NAMESPACE, "d")).snapshot == scribe.snapshots[NAMESPACE, "d"][-1]


async def test_a_value_whose_dictionary_is_lost_is_damaged(open_store):
    (writer, codec), (reader, _) = await open_store(), await open_store()
    scribe = await begin(writer)
    codec.dictionaries.add(dictionaries.Dictionary(7, NAMESPACE, TRAINED.content))
    writer._rows.forget = lambda: None
    scribe.put("d", order(1))
    await writer.commit(scribe.commit())
    with pytest.raises(StoreDamaged, match="cannot be read") as damaged:
        await reader.head(NAMESPACE, "d")
    assert "unknown dictionary 7" in damaged.value.facts["cause"]


async def test_a_dictionary_is_encrypted_where_the_documents_are(tmp_path):
    assert CANARY.encode() in TRAINED.content
    for name, codec in (("plain", Compression.of("none")), ("encrypted", encryption(LOG_ID))):
        async with sqlite_stores(tmp_path / name) as opener:
            store = await opener(codec=codec)
            await store.bind(LOG_ID)
            await store.add_dictionary(NAMESPACE, TRAINED.content)
            stored = b"".join(path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file())
            assert (CANARY.encode() in stored) == (name == "plain")


@pytest.mark.parametrize("make_codec", [Compression, lambda: encryption(LOG_ID)], ids=["plain", "encrypted"])
async def test_a_rebuild_is_written_by_the_newest_dictionaries(tmp_path, make_codec):
    async with AsyncExitStack() as stack:
        opener = await stack.enter_async_context(sqlite_stores(tmp_path))
        live, fresh = await opener(codec=make_codec()), await opener(codec=make_codec(), is_rebuild=True)
        swap = await stack.enter_async_context(SqliteSchemaSwap.open(tmp_path, codec=make_codec()))
        scribe = await begin(live)
        old = await live.add_dictionary(NAMESPACE, TRAINED.content)
        number = await live.add_dictionary(NAMESPACE, TRAINED.content)
        scribe.put("d", order(1))
        commit = scribe.commit()
        await live.commit(commit)
        await begin(fresh)
        await fresh.commit(commit)
        assert [found async for found in swap.unequal(-1, scribe.sequence)] == []
        async with swap.hold():
            await swap.swap()
        reader = await opener(codec=make_codec())
        assert (await reader.head(NAMESPACE, "d")).snapshot == scribe.snapshots[NAMESPACE, "d"][-1]
    with sqlite3.connect(tmp_path / "refold.sqlite") as database:
        kept = [row[0] for row in database.execute("SELECT number FROM dictionaries ORDER BY number")]
        assert kept == [number] > [old]
        (state,) = database.execute("SELECT state FROM documents").fetchone()
        place = Place("documents.state", NAMESPACE, "d", 0)
        with pytest.raises(dictionaries.DictionaryUnknown, match=str(number)):
            make_codec().decode(place, state)
    database.close()


async def test_a_store_has_a_bounded_number_of_dictionaries(open_store, monkeypatch):
    monkeypatch.setattr(dictionaries, "DICTIONARIES_MAX", 2)
    store, _ = await open_store()
    await store.bind(LOG_ID)
    for _ in range(2):
        await store.add_dictionary(NAMESPACE, TRAINED.content)
    with pytest.raises(Refused, match="the store has 2 dictionaries"):
        await store.add_dictionary(NAMESPACE, TRAINED.content)


async def test_a_sample_has_states_of_present_documents_that_are_small(open_store):
    store, _ = await open_store()
    scribe = await begin(store)
    for number in range(20):
        scribe.put(f"d{number}", {"n": number})
    scribe.put("large", "x" * 20_000)
    scribe.publish("d0", {"delete": True})
    await store.commit(scribe.commit())
    assert sorted(await sample_states(store, NAMESPACE)) == sorted(b'{"n":%d}' % n for n in range(1, 20))


def test_only_files_and_redis_keep_dictionaries():
    postgres, redis = "postgres://h/d", "redis://h"
    assert dictionary_store(load(stores=f"{postgres} {redis} file:///f"), None).name == "redis"
    for stores, name in ((postgres, None), (f"{redis} {postgres}", "postgres")):
        with pytest.raises(Refused, match="only files and Redis keep dictionaries"):
            dictionary_store(load(stores=stores), name)


async def test_a_store_whose_values_are_compressed_otherwise_trains_none():
    settings = load(stores="file:///f", compression="snappy")
    with pytest.raises(Refused, match="REFOLD_COMPRESSION: must be zstd"):
        await run_train(settings, NAMESPACE, name=None)


def test_training_judges_by_documents_that_it_did_not_see():
    assert (TRAINED.documents, TRAINED.held_out) == (600, 200)
    assert TRAINED.plain_bytes < TRAINED.bytes_without
    assert TRAINED.bytes_with < TRAINED.bytes_without / 2


RANDOM = random.Random(1)


@pytest.mark.parametrize(
    ("states", "documents", "reason"),
    [
        (ORDERS[:63], 63, "too_few_documents"),
        ([], 0, "too_few_documents"),
        ([RANDOM.randbytes(300) for _ in range(200)], 200, "saves_little"),
        ([b"%d" % number for number, _ in zip(count(), range(100), strict=False)], 100, "saves_little"),
        (ORDERS, 60, "saves_little"),
    ],
    ids=["few", "none", "random", "tiny", "fewer than its own bytes"],
)
def test_a_dictionary_that_would_not_pay_is_refused(states, documents, reason):
    with pytest.raises(Refused) as refused:
        train(NAMESPACE, states, documents, "zstd:1", 512)
    assert refused.value.reason == reason
