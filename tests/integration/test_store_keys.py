"""What a store knows of the keys that its values are encrypted with, in each adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from refold.core.errors import FenceLost, KeyUnknown, KeyWrong
from refold.store import Commit
from refold.store.keyed import check_keys
from refold.store.layers import RowCodec
from refold.store.layers.compression import Compression
from refold.store.layers.keyring import Keyring
from support.encrypted import ONE, TWO, FixedKeys, encryption, keyring
from support.scribe import NAMESPACE
from support.stores import LOG_ID, OpenStore, begin, postgres_stores, redis_stores, sqlite_stores

BOTH = {1: ONE, 2: TWO}


@pytest.fixture(params=["files", "postgres", "redis"])
def stores(request: pytest.FixtureRequest) -> AbstractAsyncContextManager[OpenStore]:
    """Return the context in which stores of a kind are opened."""
    if request.param == "files":
        return sqlite_stores(request.getfixturevalue("tmp_path"))
    if request.param == "redis":
        return redis_stores(request.getfixturevalue("redis_url"))
    return postgres_stores(
        request.getfixturevalue("postgres_dsn"), is_history_encrypted=True, are_states_encrypted=True
    )


@pytest.fixture
async def open_store(stores: AbstractAsyncContextManager[OpenStore]) -> AsyncIterator[OpenStore]:
    """Return a function that opens one more store over the same tables, with a codec."""
    async with stores as opener:

        async def opened(codec: RowCodec) -> Any:
            return await opener(codec=codec)

        yield opened


def _changing(keys: dict[int, bytes], used: int) -> tuple[FixedKeys, Keyring]:
    """Return a source of keys, and a keyring that looks at it again before each use."""
    source = FixedKeys(keys, used)
    times = iter(range(1_000_000))
    return source, Keyring(source, timer=lambda: float(next(times)))


async def test_the_first_commit_under_a_key_stores_its_check_value(open_store: OpenStore) -> None:
    source, ring = _changing({1: ONE}, 1)
    store = await open_store(encryption(LOG_ID, ring))
    scribe = await begin(store)
    assert await store.key_checks(LOG_ID) == {}
    scribe.put("d", 1)
    await store.commit(scribe.commit())
    assert list(await store.key_checks(LOG_ID)) == [1]
    assert await store.key_checks("another log") == {}
    source.change(BOTH, 2)
    scribe.put("d", 2)
    await store.commit(scribe.commit())
    assert list(await store.key_checks(LOG_ID)) == [1, 2]


async def test_a_store_is_not_opened_with_other_keys_than_its_own(open_store: OpenStore) -> None:
    store = await open_store(encryption(LOG_ID, keyring(BOTH, used=2)))
    scribe = await begin(store)
    scribe.put("d", 1)
    await store.commit(scribe.commit())
    wrong = encryption(LOG_ID, keyring({2: ONE}, used=2))
    with pytest.raises(KeyWrong, match="key 2"):
        await check_keys(store, wrong, LOG_ID)
    for codec in (encryption(LOG_ID), Compression()):
        with pytest.raises(KeyUnknown, match="key 2"):
            await check_keys(store, codec, LOG_ID)
    await check_keys(store, encryption(LOG_ID, keyring({2: TWO}, used=2)), LOG_ID)


async def test_a_store_from_before_check_values_is_still_used(open_store: OpenStore) -> None:
    codec = encryption(LOG_ID)
    store = await open_store(codec)
    scribe = await begin(store)
    scribe.put("d", 1)
    await store.commit(scribe.commit())
    await store.remove_key_check(1)
    later = await open_store(encryption(LOG_ID))
    await check_keys(later, encryption(LOG_ID), LOG_ID)
    await store.bind(LOG_ID)
    scribe.put("d", 2)
    await store.commit(scribe.commit())
    assert list(await later.key_checks(LOG_ID)) == [1]
    assert (await later.head(NAMESPACE, "d")).snapshot.state == b"2"


async def test_a_writer_with_another_key_of_the_same_number_writes_nothing(open_store: OpenStore) -> None:
    store = await open_store(encryption(LOG_ID))
    scribe = await begin(store)
    scribe.put("d", 1)
    await store.commit(scribe.commit())
    await store.close()
    wrong = await open_store(encryption(LOG_ID, keyring({1: TWO})))
    await wrong.bind(LOG_ID)
    assert await wrong.acquire_lease()
    scribe.put("d", 2)
    with pytest.raises(KeyWrong, match="key 1"):
        await wrong.commit(scribe.commit())
    right = await open_store(encryption(LOG_ID))
    assert (await right.head(NAMESPACE, "d")).snapshot.state == b"1"


@pytest.mark.parametrize("is_open", [False, True])
async def test_no_value_is_stored_under_a_key_whose_check_value_is_gone(
    open_store: OpenStore, *, is_open: bool
) -> None:
    store = await open_store(encryption(LOG_ID))
    scribe = await begin(store)
    scribe.put("d", 1)
    await store.commit(scribe.commit())
    await store.remove_key_check(1)
    scribe.put("d", 2)
    write = _write_open if is_open else type(store).commit
    with pytest.raises(FenceLost):
        await write(store, scribe.commit())
    assert await store.key_checks(LOG_ID) == {}
    assert (await store.head(NAMESPACE, "d")).snapshot.state == b"1"


async def _write_open(store: Any, commit: Commit) -> None:
    async with store.open_commit() as opened:
        await opened.write(commit)
