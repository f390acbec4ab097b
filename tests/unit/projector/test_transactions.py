"""The projector commits all members of a transaction together, and `verify` knows them."""

from __future__ import annotations

from typing import Any

import pytest

from refold.audit.verify import Scope, verify
from refold.core import json_text
from refold.log import Publication, end_of
from refold.log import memory as memory_log
from refold.log.memory import MemoryLog
from refold.projector import loop as loops
from refold.store import Commit
from refold.store.memory import MemoryStore
from support.projection import NARROW, append, ports, project, projecting

DOCUMENTS = ("a", "b", "c")


class Listener:
    """Keeps the differences."""

    def __init__(self) -> None:
        self.differences: list[Any] = []

    def progress(self, _: Any) -> None:
        pass

    def difference(self, difference: Any) -> None:
        self.differences.append(difference)


class WatchedStore(MemoryStore):
    """Notes up to which sequence each commit goes."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[int] = []

    async def commit(self, commit: Commit) -> None:
        self.ends.append(commit.checkpoint.read_sequence)
        await super().commit(commit)


async def transact(log: MemoryLog, number: int, *, count: int = len(DOCUMENTS)) -> int:
    """Append a transaction to three documents, which says that it has `count` members; return its last sequence."""
    events = [
        {"put": number, "txn": {"id": f"t{number}", "index": at, "count": count}}
        for at in range(len(DOCUMENTS))
    ]
    appended = await log.append_atomically(
        [
            Publication(namespace="n", document=document, body=json_text.dumps(event))
            for document, event in zip(DOCUMENTS, events, strict=True)
        ]
    )
    assert isinstance(appended, list)
    return appended[-1].sequence


@pytest.fixture(params=[1, 2, 500])
def read_in_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_log, "READ_EVENTS_MAX", request.param)
    monkeypatch.setattr(loops, "RECORDS_FOLDED_MAX", min(request.param, 2))


@pytest.mark.usefixtures("read_in_parts")
async def test_a_commit_has_all_members_of_a_transaction_or_none() -> None:
    log, store, inside = MemoryLog("log-1"), WatchedStore(), set()
    for number in range(20):
        await append(log, "z", {"put": number})
        last = await transact(log, number)
        inside |= {last - 1, last - 2}
    async with projecting(ports(log, store), NARROW) as running:
        await running.committed((await log.info()).last_sequence)
    assert len(store.ends) > 5
    assert inside.isdisjoint(store.ends)
    for document in DOCUMENTS:
        head = await store.head("n", document)
        assert head is not None
        assert head.snapshot.version == 20


@pytest.mark.usefixtures("read_in_parts")
async def test_verify_finds_no_difference_with_transactions_and_with_events_that_are_none() -> None:
    log = MemoryLog("log-1")
    await transact(log, 1)
    await append(log, "a", {"put": 1, "txn": {"id": "u", "index": 0, "count": 1}})
    await transact(log, 2, count=4)
    await transact(log, 3)
    store, listener = await project(log), Listener()
    assert (await store.head("n", "a")).snapshot.version == 2
    rejections = await store.rejections("n", None, limit=10, before_sequence=None)
    assert [rejection.reason for rejection in rejections] == ["bad_transaction"] * 4
    tally = await verify(log, store, listener, Scope())
    assert (tally.differences, listener.differences) == (0, [])


async def test_the_end_of_the_log_is_before_a_transaction_that_is_being_stored() -> None:
    log = MemoryLog("log-1")
    last = await transact(log, 1)
    assert await end_of(log) == last
    for stored in (1, 2):
        cut = MemoryLog("log-1")
        await transact(cut, 1)
        del cut._records[last - len(DOCUMENTS) + stored :]
        assert await end_of(cut) == last - len(DOCUMENTS)
