"""What the projector holds in memory: documents first, then their open segments."""

from __future__ import annotations

import pytest

from refold.core.document import Document
from refold.log.memory import MemoryLog
from refold.projector.cache import DOCUMENT_BYTES, ENTRY_BYTES, DocumentCache
from refold.projector.loop import LoopLimits
from refold.store import Commit, Key
from refold.store.memory import MemoryStore, Tables
from support.projection import NARROW, ROOMY, append, ports, projecting

KEYS = [("n", name) for name in "abc"]
EVENTS = 5


def hold(cache: DocumentCache, key: Key) -> None:
    """Add a document with an open segment; its entries are counted by its row."""
    cache.hold(Document(namespace=key[0], document=key[1], partition=0, unpaged_events=EVENTS))
    cache.segments[key] = []


@pytest.mark.parametrize("segments", range(4))
def test_open_segments_are_dropped_before_documents_the_least_recently_used_first(segments: int) -> None:
    cache = DocumentCache(3 * DOCUMENT_BYTES + segments * EVENTS * ENTRY_BYTES)
    for key in KEYS:
        hold(cache, key)
    assert not cache.shrink(KEYS, ())
    assert list(cache.segments) == KEYS[3 - segments :]
    assert all(cache.get(key) for key in KEYS)


def test_a_dropped_document_has_no_segment() -> None:
    cache = DocumentCache(2 * DOCUMENT_BYTES)
    for key in KEYS:
        hold(cache, key)
    assert cache.shrink(KEYS, pinned=KEYS[:1])
    assert [key for key in KEYS if cache.get(key)] == [KEYS[0], KEYS[2]]
    assert not cache.segments


class _Noting(MemoryStore):
    """A store that notes which pages it was given whole."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.are_whole: list[bool] = []

    async def commit(self, commit: Commit) -> None:
        """Note the pages with events of earlier commits."""
        self.are_whole += [page.is_whole for page in commit.pages if page.journal_events]
        await super().commit(commit)


async def _commit_each(log: MemoryLog, store: MemoryStore, events: int, limits: LoopLimits = ROOMY) -> None:
    """Commit events one by one."""
    async with projecting(ports(log, store), limits) as running:
        for number in range(events):
            await running.committed(await append(log, "a", {"put": number}))


async def test_a_page_is_packed_from_memory_unless_the_projector_has_started_within_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refold.projector.commit_buffer.PAGE_EVENTS_MAX", 4)
    log, tables = MemoryLog("log-1"), Tables()
    store = _Noting(tables)
    await _commit_each(log, store, 10)
    assert store.are_whole == [True, True]
    tables.leases.clear()
    store = _Noting(tables)
    await _commit_each(log, store, 7)
    assert store.are_whole == [False, True]


async def test_without_room_for_segments_a_page_is_packed_from_the_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refold.projector.commit_buffer.PAGE_EVENTS_MAX", 4)
    log, store = MemoryLog("log-1"), _Noting(Tables())
    await _commit_each(log, store, 9, NARROW)
    assert store.are_whole == [False, False]
