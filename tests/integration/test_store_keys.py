"""What a store knows of the keys that its values are encrypted with, in each adapter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any

import pytest

from refold.core.errors import FenceLost, KeyUnknown, KeyWrong
from refold.store import Commit
from refold.store.keyed import check_keys, reencrypt
from refold.store.layers import Place, RowCodec
from refold.store.layers.compression import Compression
from refold.store.layers.encryption import Encryption
from refold.store.layers.keyring import Keyring
from support.encrypted import ONE, TWO, FixedKeys, encryption, keyring
from support.scribe import NAMESPACE, Scribe
from support.stores import LOG_ID, OpenStore, all_entries, begin, postgres_stores, redis_stores, sqlite_stores

BOTH = {1: ONE, 2: TWO}
Stores = Callable[[], AbstractAsyncContextManager[OpenStore]]


@pytest.fixture(params=["files", "postgres", "redis"])
def stores(request: pytest.FixtureRequest) -> Stores:
    """Return a function that returns a context in which stores of a kind are opened."""
    if request.param == "files":
        return partial(sqlite_stores, request.getfixturevalue("tmp_path"))
    if request.param == "redis":
        return partial(redis_stores, request.getfixturevalue("redis_url"))
    return partial(postgres_stores, request.getfixturevalue("postgres_dsn"))


@pytest.fixture
async def open_store(stores: Stores) -> AsyncIterator[OpenStore]:
    """Return a function that opens one more store over the same tables, with a codec."""
    async with stores() as opener:

        async def opened(codec: RowCodec) -> Any:
            return await opener(codec=codec, **_levels(opener, codec))

        yield opened


def _levels(opener: OpenStore, codec: RowCodec) -> dict[str, bool]:
    is_on = isinstance(codec, Encryption) and codec.is_encrypting
    is_postgres = "postgres" in opener.__qualname__
    return {"is_history_encrypted": is_on, "are_states_encrypted": is_on} if is_postgres else {}


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


async def test_a_check_value_that_is_there_stays_when_another_key_comes_to_be_used(
    open_store: OpenStore,
) -> None:
    """The file changes just when a writer looks for the check value of the key before."""
    source, ring = _changing({1: ONE}, 1)
    store = await open_store(encryption(LOG_ID, ring))
    scribe = await begin(store)
    scribe.put("d", 1)
    await store.commit(scribe.commit())
    await store.bind(LOG_ID)
    read = store.key_checks

    async def read_and_change(log_id: str) -> dict[int, bytes]:
        source.change(BOTH, 2)
        return dict(await read(log_id))

    store.key_checks = read_and_change
    for number in (2, 3):
        scribe.put("d", number)
        await store.commit(scribe.commit())
    assert list(await read(LOG_ID)) == [1, 2]


async def test_a_changed_keyring_that_lacks_a_key_of_the_store_is_not_used(open_store: OpenStore) -> None:
    source, ring = _changing({1: ONE}, 1)
    store = await open_store(encryption(LOG_ID, ring))
    scribe = await begin(store)
    for keys, numbers in (({2: TWO}, [1]), (BOTH, [1, 2])):
        scribe.put("d", len(keys))
        await store.commit(scribe.commit())
        source.change(keys, 2)
        scribe.put("d", len(keys))
        await store.commit(scribe.commit())
        assert list(await store.key_checks(LOG_ID)) == numbers
        assert ("lacks key 1" in str(store.key_problem)) == (keys is not BOTH)


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


async def test_a_state_is_not_flushed_under_a_key_whose_check_value_is_gone(postgres_dsn: str) -> None:
    """PostgreSQL writes large states apart from commits."""
    levels = {"is_history_encrypted": True, "are_states_encrypted": True}
    async with postgres_stores(postgres_dsn, codec=encryption(LOG_ID), **levels) as open_store:
        store = await open_store()
        scribe = await begin(store)
        scribe.put("d", {"n": 1})
        await store.commit(scribe.commit())
        scribe.publish("d", {"merge": {"n": 2}})
        await store.commit(scribe.commit(omitted={"d"}))
        await store.remove_key_check(1)
        with pytest.raises(FenceLost):
            await store.flush_states(is_final=True)
        await store.bind(LOG_ID)
        await store.flush_states(is_final=True)
        assert list(await store.key_checks(LOG_ID)) == [1]
        assert (await store.head(NAMESPACE, "d")).snapshot.state == b'{"n":2}'


async def _write_open(store: Any, commit: Commit) -> None:
    async with store.open_commit() as opened:
        await opened.write(commit)


def _write(scribe: Scribe, number: int) -> None:
    """Publish events that give every part of a store a value."""
    for name in ("a", "b", f"c{number}"):
        scribe.put(name, {"n": number, "text": "x" * 600})
        scribe.cut(name)
        scribe.publish(name, {"merge": {"m": number}})
    scribe.publish("gone", {"put": number})
    scribe.publish("gone", {"delete": True})
    scribe.publish("a", {"patch": [{"op": "test", "path": "/m", "value": -1}]})
    scribe.publish("a", {"patch": [{"op": "test", "path": "/m", "value": -1}]}, reason="needs_resolution")
    scribe.publish_nowhere(b"elsewhere", b"body")


async def _content(store: Any) -> list[Any]:
    names = ["a", "b", "gone", *(f"c{number}" for number in range(4))]
    found: list[Any] = []
    for name in names:
        head = await store.head(NAMESPACE, name)
        found += [head, await all_entries(store, name)]
    asked = {"limit": 100, "before_sequence": None}
    found += [await store.rejections(None, None, **asked), await store.rejections("", "", **asked)]
    opens = {"after_sequence": None, "is_descending": False, "limit": 100}
    return [*found, await store.open_conflicts(None, None, **opens)]


async def _rewrite(store: Any, *, rate: float = 1e9) -> int:
    return await reencrypt(store, rate=rate, report=lambda _: None)


async def _keys_of(store: Any) -> set[int | None]:
    return {count.key for count in await store.count_keys() if count.values}


async def test_all_values_are_rewritten_under_the_used_key_or_under_none(open_store: OpenStore) -> None:
    plain = await open_store(Compression())
    scribe = await begin(plain)
    _write(scribe, 0)
    await plain.commit(scribe.commit())
    if hasattr(plain, "add_dictionary"):
        await plain.add_dictionary(NAMESPACE, b"text" * 100)
        _write(scribe, 1)
        await plain.commit(scribe.commit())
    before = await _content(plain)
    assert await _keys_of(plain) == {None}
    first = await open_store(encryption(LOG_ID))
    written = await _rewrite(first)
    assert written > 0
    assert await _rewrite(first) == 0
    assert await _keys_of(first) == {1}
    assert await _content(first) == before
    second = await open_store(encryption(LOG_ID, keyring(BOTH, used=2)))
    assert await _rewrite(second) == written
    assert await _keys_of(second) == {2}
    assert await _content(await open_store(encryption(LOG_ID, keyring({2: TWO}, used=2)))) == before
    codec = Encryption(Compression(), keyring(BOTH, used=2), LOG_ID, is_encrypting=False)
    none = await open_store(codec)
    assert await _rewrite(none) == written
    assert await _keys_of(none) == {None}
    assert await _content(await open_store(Compression())) == before


async def test_a_key_is_retired_only_when_no_value_needs_it(open_store: OpenStore) -> None:
    source, ring = _changing({1: ONE}, 1)
    store = await open_store(encryption(LOG_ID, ring))
    scribe = await begin(store)
    _write(scribe, 0)
    await store.commit(scribe.commit())
    check = ring.check(1, LOG_ID)
    source.change(BOTH, 2)
    other = await open_store(encryption(LOG_ID, keyring(BOTH, used=2)))
    needed = await other.retire_key(1, check)
    assert needed == sum(count.values for count in await store.count_keys())
    assert list(await store.key_checks(LOG_ID)) == [1]
    await _rewrite(other)
    assert await other.retire_key(1, check) == 0
    assert list(await store.key_checks(LOG_ID)) == [2]
    _write(scribe, 1)
    await store.commit(scribe.commit())
    assert await _keys_of(store) == {2}


async def test_commits_go_on_while_all_values_are_rewritten(open_store: OpenStore) -> None:
    """The writer's values are those of the log at the end, whichever key they are under."""
    source, ring = _changing({1: ONE}, 1)
    writer = await open_store(encryption(LOG_ID, ring))
    scribe = await begin(writer)
    source.change(BOTH, 1)
    others = {used: await open_store(encryption(LOG_ID, keyring(BOTH, used=used))) for used in (1, 2)}
    is_over = asyncio.Event()

    async def write() -> int:
        commits = 0
        while not is_over.is_set() or commits < 50:
            _write(scribe, commits % 4)
            await writer.commit(scribe.commit())
            commits += 1
        return commits

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(write())
        for used in (2, 1, 2):
            source.change(BOTH, used)
            await _rewrite(others[used])
        is_over.set()
    assert writing.result() >= 50
    await _rewrite(others[2])
    assert await _keys_of(writer) == {2}
    await _compare(writer, scribe)


async def _compare(store: Any, scribe: Scribe) -> None:
    """Compare what a store has with the log that was committed to it."""
    for (_, name), snapshots in scribe.snapshots.items():
        head = await store.head(NAMESPACE, name)
        assert (head.snapshot.version, head.snapshot.state) == (snapshots[-1].version, snapshots[-1].state)
        kept = [entry for run in await all_entries(store, name) for entry in run]
        assert kept == scribe.entries[NAMESPACE, name][-len(kept) :]


class _Interrupted(Encryption):
    """A codec that calls `meanwhile` before it encrypts a value of one part of a document."""

    meanwhile: Callable[[], None] | None = None
    part = ""

    def reencrypt(self, place: Place, stored: bytes) -> bytes:
        self._interrupt(place)
        return super().reencrypt(place, stored)

    def encode(self, place: Place, plain: bytes) -> bytes:
        self._interrupt(place)
        return super().encode(place, plain)

    def _interrupt(self, place: Place) -> None:
        if place.document == "a" and place.part == self.part and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()


async def test_a_value_that_has_changed_since_it_was_read_is_not_replaced(
    stores: Stores, open_store: OpenStore
) -> None:
    """A writer in another thread commits between the reading of a value and its replacement."""
    codec = _Interrupted(Compression(), keyring(BOTH, used=2), LOG_ID)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    stack = AsyncExitStack()
    try:
        opener = run(stack.enter_async_context(stores()))
        first = encryption(LOG_ID, keyring(BOTH))
        writer = run(opener(codec=first, **_levels(opener, first)))
        scribe = run(begin(writer))

        def commit(number: int) -> None:
            _write(scribe, number)
            run(writer.commit(scribe.commit()))

        rewriting = await open_store(codec)
        for part in ("documents.state", "journal", "pages.snapshot", "rejections"):
            commit(0)
            codec.part, codec.meanwhile = part, partial(commit, 1)
            await _rewrite(rewriting)
            assert codec.meanwhile is None
            assert await _keys_of(rewriting) == {2}
            await _compare(rewriting, scribe)
    finally:
        run(stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
