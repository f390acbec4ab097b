"""Lists of a namespace as of a point: exact on every clock, independent of later events."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from refold.core.errors import Refused
from refold.core.history import Clock, Point
from refold.core.timestamp import TIME_MAX_NANOSECONDS, TIME_MIN_NANOSECONDS, format_time
from refold.store import ANSWER_BYTES_MAX
from refold.store.postgres import history
from support.scribe import NAMESPACE, SECOND
from support.stores import HOSTILE

SEED = 20_260_801
DOCUMENTS = ("+", "a", "a-1", "a:1", "b", "hostile", "late", "never", "~", "é.1", "é.ß")
START = 1_700_000_000 * SECOND
EVENTS = 120
NARROW = {"LIST_BATCH_DOCUMENTS_MAX": 3, "LIST_BATCH_BYTES_MAX": 300, "LIST_BATCHES_MAX": 2}
"""Bounds of PostgreSQL's batches that every answer meets."""


async def listed(store, point, *, namespace=NAMESPACE, prefix="", limit=100):
    """Follow the cursors to the end; return the heads."""
    heads, cursor = [], None
    while True:
        answer = await store.list_at(namespace, point, prefix=prefix, limit=limit, cursor=cursor)
        assert len(answer.heads) <= limit
        heads += answer.heads
        cursor = answer.cursor
        if cursor is None:
            return [(head.document, head.snapshot) for head in heads]


def expected(scribe, point, prefix=""):
    """Find by a plain search what was present at a point."""
    found = [(name, scribe.at(name, point)) for name in sorted(DOCUMENTS) if name.startswith(prefix)]
    return [(name, snapshot) for name, snapshot in found if snapshot.state is not None]


def publish_something(scribe, rng, document):
    """Publish one event of any kind: whole states, patches, deletes, rejected events, other times."""
    event = rng.choice(
        [
            {"put": {"n": scribe.sequence, "of": HOSTILE if document == "hostile" else document}},
            {"put": None},
            {"patch": [{"op": "add", "path": f"/{rng.randrange(4)}", "value": [scribe.sequence, 1.0]}]},
            {"merge": {"m": {str(rng.randrange(3)): rng.choice([None, True, 7])}}},
            {"delete": True},
            {"patch": [{"op": "test", "path": "/n", "value": "no"}]},
        ]
    )
    if rng.random() < 0.5:
        event["occurred_at"] = format_time(START + rng.randrange(-500, 300) * SECOND)
    # The broker's clock sometimes repeats a time or goes back.
    at = scribe.sequence + rng.choice([1, 1, 1, 0, -3])
    return scribe.publish(document, b"garbage" if rng.random() < 0.05 else event, at=at)


@pytest.mark.usefixtures("full_depth")
@pytest.mark.parametrize("narrow", [{}, NARROW], ids=["wide", "narrow"])
async def test_a_list_at_any_point_equals_that_of_a_plain_search(store, scribe, narrow, monkeypatch):
    print(f"seed {SEED}")
    for name, bound in narrow.items():
        monkeypatch.setattr(history, name, bound)
    rng = random.Random(SEED)
    scribe.put("a", 1, namespace="elsewhere")
    names = [name for name in DOCUMENTS if name not in ("late", "never")]
    for number in range(EVENTS):
        if number > EVENTS - 5:
            names.append("late")
        document = rng.choice(names)
        publish_something(scribe, rng, document)
        if rng.random() < 0.15:
            scribe.cut(document)
        if rng.random() < 0.3:
            await store.commit(scribe.commit())
    scribe.publish("never", {"delete": True})
    await store.commit(scribe.commit())
    points = [Point(Clock.sequence, sequence) for sequence in range(0, EVENTS + 4, 3)]
    points += [Point(Clock.recorded, START + second * SECOND) for second in range(0, EVENTS, 9)]
    points += [Point(Clock.occurred, START + second * SECOND) for second in range(-510, 310, 60)]
    for point in points:
        assert await listed(store, point, limit=rng.choice([1, 2, 3, 100])) == expected(scribe, point), point
    for clock in (Clock.sequence, Clock.recorded, Clock.occurred):
        for value in (TIME_MIN_NANOSECONDS, -1, TIME_MAX_NANOSECONDS):
            point = Point(clock, value)
            assert await listed(store, point) == expected(scribe, point), point
    middle = Point(Clock.sequence, EVENTS // 2)
    for prefix in ("a", "a-", "z", "\u0000", "é", "a%"):
        assert await listed(store, middle, prefix=prefix, limit=2) == expected(scribe, middle, prefix)
    assert await listed(store, middle, namespace="unknown") == []


@pytest.mark.usefixtures("full_depth")
async def test_an_absent_document_is_listed_at_points_where_it_was_present(store, scribe):
    made = scribe.put("gone", {"was": "here"})
    gone = scribe.publish("gone", {"delete": True})
    again = scribe.put("gone", {"is": "back"})
    scribe.put("kept", 1)
    await store.commit(scribe.commit())
    found = [
        [name for name, _ in await listed(store, Point(Clock.sequence, sequence))]
        for sequence in (made.sequence - 1, made.sequence, gone.sequence, again.sequence, scribe.sequence)
    ]
    assert found == [[], ["gone"], [], ["gone"], ["gone", "kept"]]


@pytest.mark.usefixtures("full_depth")
async def test_pages_of_a_list_at_a_sequence_are_consistent_under_writes(store, scribe):
    for document in "abcdef":
        scribe.put(document, [document])
    await store.commit(scribe.commit())
    point = Point(Clock.sequence, scribe.sequence)
    heads, cursor = [], None
    for document in ("a", "d", "e", "f", "g", "h"):
        answer = await store.list_at(NAMESPACE, point, prefix="", limit=1, cursor=cursor)
        heads += [(head.document, head.snapshot.state) for head in answer.heads]
        cursor = answer.cursor
        scribe.publish(document, {"delete": True} if document in "de" else {"put": "new"})
        if document == "f":
            scribe.cut(document)
        await store.commit(scribe.commit())
    assert heads == [(document, b'["%b"]' % document.encode()) for document in "abcdef"]
    assert cursor is None


@pytest.mark.usefixtures("full_depth")
async def test_a_listed_head_is_the_exact_state_at_the_point(store, scribe):
    entry = scribe.put("a", HOSTILE)
    await store.commit(scribe.commit())
    for point in (Point(Clock.sequence, entry.sequence), Point(Clock.recorded, entry.recorded_at)):
        answer = await store.list_at(NAMESPACE, point, prefix="", limit=1, cursor=None)
        assert answer.heads == [await store.head(NAMESPACE, "a")]
        assert answer.cursor is None


@pytest.mark.usefixtures("full_depth")
async def test_a_list_is_bounded_in_bytes_and_returns_at_least_one_item(store, scribe):
    for document in ("a", "b", "c", "d"):
        scribe.put(document, [])
        for _ in range(6 if document == "b" else 3):
            operation = {"op": "add", "path": "/-", "value": "x" * 1_000_000}
            assert scribe.publish(document, {"patch": [operation]}).status.is_effective
    point = Point(Clock.sequence, scribe.sequence)
    scribe.put("a", "small now")
    scribe.put("b", "small now")
    await store.commit(scribe.commit())
    cursor, answers = None, []
    while not answers or cursor is not None:
        answer = await store.list_at(NAMESPACE, point, prefix="", limit=100, cursor=cursor)
        answers.append([head.document for head in answer.heads])
        cursor = answer.cursor
    sizes = {name: scribe.at(name, point).state for name in "abcd"}
    for before, after in pairwise(answers):
        assert sum(len(sizes[name]) for name in [*before, after[0]]) > ANSWER_BYTES_MAX
    assert answers == [["a"], ["b"], ["c", "d"]]


@pytest.mark.parametrize("cursor", ["", "%", "AA"])
async def test_an_invalid_cursor_is_refused(store, scribe, cursor):
    with pytest.raises(Refused) as raised:
        await store.list_at(NAMESPACE, Point(Clock.sequence, 1), prefix="", limit=9, cursor=cursor)
    assert (raised.value.reason, raised.value.field) == ("bad_cursor", "cursor")
