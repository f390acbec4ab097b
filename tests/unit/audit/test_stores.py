"""`compare_stores` over two stores in memory: equal, of recent depth, behind, damaged."""

import pytest

from refold.audit.stores import Listener, Side, compare_stores
from refold.log.memory import MemoryLog
from refold.store import Depth
from refold.store.memory import MemoryStore
from support.projection import append, project

VERSIONS = 700
"""Of one document: more than fit in the pages that a store of recent depth keeps."""


@pytest.fixture
async def log():
    log = MemoryLog("stores")
    for number in range(VERSIONS):
        await append(log, "many", {"put": {"n": number, "text": "x" * 200}})
        if number % 100 == 0:
            await append(log, f"few-{number}", {"put": {"n": number}})
    await append(log, "few-0", {"patch": "not a patch"})
    await append(log, "few-100", {"delete": True})
    # A name that makes no document.
    record = await log.get(3)
    log._records.append(record._replace(sequence=len(log._records) + 1, subject=b"log.1.n.a%b"))
    return log


async def compared(first, second):
    found = []
    listener = Listener(found.append, lambda _: None)
    comparison = await compare_stores(Side("first", first), Side("second", second), listener)
    assert comparison.differences == len(found)
    return comparison, found


def tables(store):
    return store._tables


async def test_two_stores_of_one_log_are_equal_in_every_event(log):
    comparison, found = await compared(await project(log), await project(log))
    assert not found
    end = (await log.info()).last_sequence
    assert (comparison.sequence, comparison.entries, comparison.not_kept) == (end, end - 1, 0)
    assert comparison.rejections == 2
    assert (comparison.documents, comparison.documents_total) == (9, 8)
    assert comparison.snapshots > 2
    assert comparison.has_counts


@pytest.mark.parametrize("is_first", [True, False])
async def test_what_a_recent_store_does_not_keep_is_counted_and_is_no_difference(log, is_first):
    full = await project(log)
    recent = MemoryStore(tables(await project(log)), depth=Depth.recent)
    comparison, found = await compared(*((recent, full) if is_first else (full, recent)))
    assert not found
    assert comparison.not_kept > 0
    entries = (await log.info()).last_sequence
    assert 0 < comparison.entries < entries


async def test_what_only_one_store_has_folded_is_left_out(log):
    behind = await project(log)
    end = (await log.info()).last_sequence
    for document in ("many", "few-0", "new"):
        await append(log, document, {"put": {"later": True}})
    ahead = await project(log)
    tables(ahead).rejections[0] = tables(ahead).rejections[0]._replace(resolved_by=end + 1)
    for pair in ((behind, ahead), (ahead, behind)):
        comparison, found = await compared(*pair)
        assert not found
        assert (comparison.sequence, comparison.entries, comparison.has_counts) == (end, end - 1, False)


def lose_document(store):
    del tables(store).documents["n", "few-200"]


def change_state(store):
    tables(store).documents["n", "few-200"].state = b'{"n":201}'


def change_old_entry(store):
    entries = tables(store).documents["n", "many"].segments[0].entries
    entries[3] = entries[3]._replace(body=entries[3].body.replace(b"3", b"4", 1))


def lose_old_entry(store):
    del tables(store).documents["n", "many"].segments[0].entries[3]


def change_old_snapshot(store):
    segments = tables(store).documents["n", "many"].segments
    segments[1] = segments[1]._replace(base=segments[1].base._replace(state=b"{}"))


def lose_page(store):
    del tables(store).documents["n", "many"].segments[1]


def lose_rejection(store):
    del tables(store).rejections[0]


def change_rejection(store):
    tables(store).rejections[0] = tables(store).rejections[0]._replace(reason="other")


def lose_unroutable(store):
    tables(store).rejections[:] = [it for it in tables(store).rejections if it.namespace]


def change_chain(store):
    checkpoint = next(it for it in tables(store).checkpoints.values() if it.last_sequence)
    checkpoint.chain = bytes(len(checkpoint.chain))


@pytest.mark.parametrize(
    ("damage", "part", "document"),
    [
        (lose_document, "document", "few-200"),
        (change_state, "document", "few-200"),
        (change_old_entry, "event", "many"),
        (lose_old_entry, "event", "many"),
        (change_old_snapshot, "snapshot", "many"),
        (lose_page, "event", "many"),
        (lose_rejection, "rejection", "few-0"),
        (change_rejection, "rejection", "few-0"),
        (lose_unroutable, "rejection", ""),
        (change_chain, "checkpoint", ""),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
async def test_damage_of_either_store_is_found(log, damage, part, document, is_first):
    good, damaged = await project(log), await project(log)
    damage(damaged)
    _, found = await compared(*((damaged, good) if is_first else (good, damaged)))
    assert (part, document) in {(it.part, it.document) for it in found}
    assert {it.document for it in found} <= {document, ""}
