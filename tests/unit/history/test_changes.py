"""A document's changes as history shows them: effective, in either order, bounded."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from refold import history
from refold.core.errors import Refused, VersionUnknown
from refold.core.fold import EVENT_BYTES_MAX
from refold.core.history import Clock, Point, touches
from refold.history import History
from refold.store.memory import MemoryStore, Tables
from support.scribe import NAMESPACE, Scribe


class PublishedHistory:
    """A history over a memory store whose events are published by hand."""

    def __init__(self, store: MemoryStore, scribe: Scribe) -> None:
        self.store = store
        self.scribe = scribe
        self.history = History(store)

    async def publish(self, *events: Any, cut_after: int = 0) -> None:
        for number, event in enumerate(events, 1):
            self.scribe.publish("d", event)
            if number == cut_after:
                self.scribe.cut("d")
        await self.store.commit(self.scribe.commit())

    async def items(self, **asked: Any) -> tuple[list[dict[str, Any]], int | None]:
        given = {"after": None, "limit": 100, "is_descending": False, "path": None} | asked
        found = await self.history.changes(NAMESPACE, "d", **given)
        return [orjson.loads(item) for item in found.items], found.next

    async def versions(self, **asked: Any) -> tuple[list[int], int | None]:
        items, following = await self.items(**asked)
        return [item["version"] for item in items], following


@pytest.fixture
async def published() -> PublishedHistory:
    store = MemoryStore(Tables())
    checkpoints = await store.bind("log-1")
    assert await store.acquire_lease()
    return PublishedHistory(store, Scribe(checkpoints))


async def test_each_kind_of_event_shows_its_patch(published: PublishedHistory) -> None:
    await published.publish(
        {"put": {"a": 1}},
        {"put": {"a": 2}},
        {"patch": [{"op": "add", "path": "/b", "value": 3}]},
        {"merge": {"a": None}},
        {"delete": True},
        {"put": {}},
    )
    items, following = await published.items()
    assert following is None
    assert [item["patch"] for item in items] == [
        [{"op": "add", "path": "", "value": {"a": 1}}],
        [{"op": "replace", "path": "", "value": {"a": 2}}],
        [{"op": "add", "path": "/b", "value": 3}],
        [{"op": "remove", "path": "/a"}],
        [{"op": "remove", "path": ""}],
        [{"op": "add", "path": "", "value": {}}],
    ]


async def test_an_item_has_the_documented_members(published: PublishedHistory) -> None:
    event = {"put": 1, "id": "e-1", "actor": "me", "type": "made", "meta": {"k": 1}}
    await published.publish({**event, "occurred_at": "2020-01-01T00:00:00Z"})
    [item], _ = await published.items()
    assert item.pop("recorded_at").endswith("Z")
    assert item == {
        "version": 1,
        "sequence": 1,
        "occurred_at": "2020-01-01T00:00:00.000000000Z",
        "actor": "me",
        "id": "e-1",
        "type": "made",
        "meta": {"k": 1},
        "patch": [{"op": "add", "path": "", "value": 1}],
        "status": "applied",
    }


async def test_rejected_events_and_duplicates_are_no_versions(published: PublishedHistory) -> None:
    await published.publish({"put": 1, "id": "x"}, {"delete": False}, {"put": 1, "id": "x"}, {"put": 2})
    items, _ = await published.items()
    assert [(item["version"], item["sequence"]) for item in items] == [(1, 1), (2, 4)]


@pytest.mark.parametrize("is_descending", [False, True])
async def test_pages_of_a_history_cover_all_of_it_in_either_order(
    published: PublishedHistory, *, is_descending: bool
) -> None:
    await published.publish(*({"put": number} for number in range(10)), cut_after=4)
    whole = list(range(1, 11))[:: -1 if is_descending else 1]
    after, gathered = None, []
    while True:
        versions, after = await published.versions(after=after, limit=3, is_descending=is_descending)
        gathered += versions
        if after is None:
            break
        assert after == versions[-1]
    assert gathered == whole


async def test_a_full_page_at_the_end_of_the_history_has_no_next(published: PublishedHistory) -> None:
    await published.publish({"put": 1}, {"put": 2})
    assert await published.versions(limit=2) == ([1, 2], None)


async def test_a_page_is_bounded_in_bytes_and_has_at_least_one_item(
    published: PublishedHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "ANSWER_BYTES_MAX", 900)
    await published.publish({"put": "x" * 2000}, {"put": "x" * 200}, {"put": "x" * 200}, {"put": "x" * 200})
    assert await published.versions() == ([1], 1)
    assert await published.versions(after=1) == ([2, 3], 3)
    assert await published.versions(after=3) == ([4], None)


async def test_a_path_filters_changes_at_below_or_above_it(published: PublishedHistory) -> None:
    await published.publish(
        {"put": {"a": {"b": 1, "c": 2}, "ab": 0}},
        {"patch": [{"op": "replace", "path": "/a/b", "value": 2}]},
        {"patch": [{"op": "replace", "path": "/ab", "value": 1}]},
        {"patch": [{"op": "test", "path": "/a/b", "value": 2}]},
        {"patch": [{"op": "move", "from": "/a/b", "path": "/d"}]},
        {"patch": [{"op": "copy", "from": "/a/c", "path": "/e"}]},
        {"merge": {"a": {"b": {"x": 1}}}},
        {"delete": True},
    )
    assert (await published.versions(path="/a/b"))[0] == [1, 2, 5, 7, 8]
    assert (await published.versions(path="/a/b/x/y"))[0] == [1, 2, 5, 7, 8]
    assert (await published.versions(path="/a"))[0] == [1, 2, 5, 7, 8]
    assert (await published.versions(path=""))[0] == [1, 2, 3, 5, 6, 7, 8]


async def test_a_search_by_path_examines_a_bounded_number_of_changes(
    published: PublishedHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "HISTORY_SCAN_MAX", 3)
    others = [{"patch": [{"op": "add", "path": "/b", "value": number}]} for number in range(4)]
    await published.publish({"put": {}}, *others, {"patch": [{"op": "add", "path": "/a", "value": 0}]})
    assert await published.versions(path="/a") == ([1], 3)
    assert await published.versions(path="/a", after=3) == ([6], None)


async def test_a_bad_pointer_is_refused(published: PublishedHistory) -> None:
    with pytest.raises(Refused) as raised:
        await published.items(path="a")
    assert raised.value.reason == "bad_pointer"


async def test_a_document_without_events_has_an_empty_history(published: PublishedHistory) -> None:
    assert await published.items() == ([], None)


async def test_a_version_above_the_head_is_unknown(published: PublishedHistory) -> None:
    await published.publish({"put": 1})
    assert (await published.history.snapshot(NAMESPACE, "d", Point(Clock.version, 1))).state == b"1"
    with pytest.raises(VersionUnknown):
        await published.history.snapshot(NAMESPACE, "d", Point(Clock.version, 2))
    with pytest.raises(VersionUnknown):
        await published.history.snapshot(NAMESPACE, "other", Point(Clock.version, 1))


async def test_diff_turns_one_version_into_the_other_in_both_directions(published: PublishedHistory) -> None:
    await published.publish(
        {"put": {"a": 1, "b": [1, 2]}}, {"merge": {"a": 2}}, {"delete": True}, {"delete": True}
    )
    diff = published.history.diff
    assert await diff(NAMESPACE, "d", 1, 2) == [{"op": "replace", "path": "/a", "value": 2}]
    assert await diff(NAMESPACE, "d", 2, 1) == [{"op": "replace", "path": "/a", "value": 1}]
    assert await diff(NAMESPACE, "d", 0, 1) == [{"op": "add", "path": "", "value": {"a": 1, "b": [1, 2]}}]
    assert await diff(NAMESPACE, "d", 2, 3) == [{"op": "remove", "path": ""}]
    assert await diff(NAMESPACE, "d", 3, 0) == []
    assert await diff(NAMESPACE, "nothing", 0, 0) == []
    with pytest.raises(VersionUnknown):
        await diff(NAMESPACE, "d", 1, 4)


async def test_large_states_are_compared_too(published: PublishedHistory) -> None:
    large = "x" * (EVENT_BYTES_MAX // 2)
    await published.publish({"put": [large, 1]}, {"put": [large, 2]})
    assert await published.history.diff(NAMESPACE, "d", 1, 2) == [{"op": "replace", "path": "/1", "value": 2}]


async def test_rejections_are_newest_first_and_paged(published: PublishedHistory) -> None:
    await published.publish({"delete": True}, {"put": 1}, {"delete": 1}, {"patch": 1})
    items, following = await published.history.rejections(NAMESPACE, "d", limit=2, before_sequence=None)
    assert [item["sequence"] for item in items] == [4, 3]
    assert following == 3
    items, following = await published.history.rejections(NAMESPACE, "d", limit=2, before_sequence=following)
    assert [item["reason"] for item in items] == ["document_absent"]
    assert following is None


async def test_an_outcome_is_found_by_sequence_and_by_id(published: PublishedHistory) -> None:
    await published.publish({"put": 1, "id": "x"}, {"delete": 1, "id": "y"}, {"put": 1, "id": "x"})
    first = await published.history.outcome(NAMESPACE, "d", 1)
    assert first is not None
    assert (first["status"], first["version"], first["created"], first["id"]) == ("applied", 1, True, "x")
    rejected = await published.history.outcome_of_id(NAMESPACE, "d", "y")
    assert rejected is not None
    assert (rejected["status"], rejected["reason"], rejected["sequence"]) == ("rejected", "bad_field", 2)
    repeated = await published.history.outcome(NAMESPACE, "d", 3)
    assert repeated is not None
    assert (repeated["status"], repeated["first"]["sequence"]) == ("duplicate", 1)
    assert await published.history.outcome(NAMESPACE, "d", 4) is None
    assert await published.history.outcome_of_id(NAMESPACE, "d", "z") is None


def test_path_matching_compares_pointers_not_text() -> None:
    assert touches([{"op": "remove", "path": "/a~1b"}], ("a/b",))
    assert not touches([{"op": "remove", "path": "/a"}], ("ab",))
    assert touches([{"op": "replace", "path": "", "value": 1}], ("a", "b"))
    assert not touches([], ())
