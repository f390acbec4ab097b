"""Reads asked at the same time are answered each for itself, as if it had been asked alone: on every adapter."""

from __future__ import annotations

import asyncio
import random

import pytest
from refold.store.postgres.read import READ_TOGETHER_BYTES_MAX, READS_TOGETHER_MAX

from refold.core.errors import StoreUnavailable
from refold.core.history import Clock, Point
from refold.history import state_at
from refold.store.postgres import PostgresStore
from support.scribe import NAMESPACE

DOCUMENTS = 2 * READS_TOGETHER_MAX + 5


def large(number):
    """A state that stays large however it is compressed."""
    return random.Random(number).randbytes(READ_TOGETHER_BYTES_MAX).hex()


@pytest.fixture
async def filled(store, scribe):
    """Many documents of three versions; every seventh is large, every fifth in closed pages, every third deleted."""
    for number in range(DOCUMENTS):
        name = f"d{number}"
        scribe.put(name, large(number) if number % 7 == 0 else number)
        scribe.publish(name, {"put": {"n": number}})
        if number % 5 == 0:
            scribe.cut(name)
        if number % 3 == 0:
            scribe.publish(name, {"delete": True})
        else:
            scribe.put(name, large(number) if number % 11 == 0 else {"m": number})
    await store.commit(scribe.commit())
    return store


async def test_heads_asked_at_once_are_each_documents_own(filled, scribe):
    names = [f"d{number}" for number in range(DOCUMENTS)] * 2
    heads = await asyncio.gather(*(filled.head(NAMESPACE, name) for name in [*names, "none"]))
    assert heads.pop() is None
    for name, head in zip(names, heads, strict=True):
        assert (head.namespace, head.document) == (NAMESPACE, name)
        assert head.snapshot == scribe.snapshots[NAMESPACE, name][-1]
        assert head.last_sequence == scribe.entries[NAMESPACE, name][-1].sequence


async def test_states_asked_at_once_are_each_documents_own(filled, scribe):
    names = [f"d{number}" for number in range(DOCUMENTS)]
    asked = [(name, Point(Clock.version, version)) for version in range(4) for name in names]
    asked += [(name, Point(Clock.sequence, scribe.sequence - 7)) for name in names]
    states = await asyncio.gather(
        *(state_at(filled, NAMESPACE, *each) for each in [*asked, ("none", asked[0][1])])
    )
    assert states.pop() is None
    for each, state in zip(asked, states, strict=True):
        assert state == scribe.at(*each), each


async def test_who_no_longer_waits_does_not_disturb_the_others(filled, scribe):
    gone, other = (asyncio.create_task(filled.head(NAMESPACE, name)) for name in ("d1", "d2"))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await other).snapshot == scribe.snapshots[NAMESPACE, "d2"][-1]
    # Unless it was answered at once, it has ended as it was told to.
    assert gone.cancelled() or gone.result().document == "d1"


async def test_a_statement_that_fails_fails_for_all_who_asked_and_the_next_goes_well(filled, scribe):
    if not isinstance(filled, PostgresStore):
        pytest.skip("the memory twin has no statements")
    real, filled._heads._sql = filled._heads._sql, "SELECT pg_terminate_backend(pg_backend_pid())"
    failed = await asyncio.gather(*(filled.head(NAMESPACE, "d1") for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in failed] == [StoreUnavailable] * 3
    assert len({id(error) for error in failed}) == 3
    filled._heads._sql = real
    assert (await filled.head(NAMESPACE, "d1")).snapshot == scribe.snapshots[NAMESPACE, "d1"][-1]


async def test_an_error_of_any_kind_reaches_every_waiter_of_a_batched_read(filled, scribe):
    if not isinstance(filled, PostgresStore):
        pytest.skip("the memory twin has no statements")
    # Column "number" is missing from these rows: the failure is a KeyError, not one of the store's.
    real, filled._heads._sql = filled._heads._sql, "SELECT $1::text[], $2::text[], $3::integer"
    async with asyncio.timeout(20):
        failed = await asyncio.gather(
            *(filled.head(NAMESPACE, "d1") for _ in range(3)), return_exceptions=True
        )
    assert all(isinstance(error, RuntimeError) for error in failed)
    assert len({id(error) for error in failed}) == 3
    filled._heads._sql = real
    assert (await filled.head(NAMESPACE, "d1")).snapshot == scribe.snapshots[NAMESPACE, "d1"][-1]
