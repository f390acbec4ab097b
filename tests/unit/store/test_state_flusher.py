"""When a large state is written: with which commits, and when it is flushed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.core.document import ABSENT, Document
from refold.store import Key
from refold.store.postgres.states import StateFlusher, StateLag

KEY = ("n", "d")


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Flusher(StateFlusher):
    """A flusher of rows that are all out of date, which records what it writes."""

    def __init__(self, clock: Clock, **bounds: float) -> None:
        super().__init__(None, None, None, StateLag(**bounds), clock)
        self.written: list[Key] = []

    async def outdated(self, *, after: Key = ("", ""), limit: int = 1) -> list[Key]:
        return [KEY][:limit] if after < KEY else []

    async def write(self, namespace: str, document: str) -> None:
        self.written.append((namespace, document))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(size: int = 5_000, name: str = "d") -> Document:
    return Document(namespace="n", document=name, partition=1, state=[], size=size)


def test_a_small_document_is_written_with_every_commit(clock: Clock) -> None:
    flusher = Flusher(clock, bytes_min=5_000, seconds=1)
    assert [flusher.wants(made(5_000), is_changed=True) for _ in range(3)] == [True] * 3
    assert [flusher.wants(made(5_001), is_changed=True) for _ in range(3)] == [True, False, False]


def test_a_large_document_is_written_after_three_quarters_of_the_interval(clock: Clock) -> None:
    flusher, written = Flusher(clock, bytes_min=1_000, seconds=4), []
    for _ in range(9):
        written.append(flusher.wants(made(), is_changed=True))
        clock.now += 1
    assert written == [True, False, False] * 3


async def test_an_idle_document_is_flushed_within_the_interval(clock: Clock) -> None:
    flusher = Flusher(clock, bytes_min=1_000, seconds=8)
    await flusher.flush()
    assert flusher.written.pop() == KEY
    flusher.wants(made(), is_changed=True)
    await flusher.flush()
    assert flusher.written == []
    clock.now += 8 - flusher.seconds
    await flusher.flush()
    assert flusher.written.pop() == KEY
    await flusher.flush()
    assert flusher.written == []
    await flusher.flush(is_final=True)
    assert flusher.written == [KEY]


def test_events_without_effect_do_not_write_a_large_document(clock: Clock) -> None:
    flusher = Flusher(clock, bytes_min=1_000, seconds=1)
    for _ in range(3):
        assert not flusher.wants(made(), is_changed=False)
        clock.now += 2
    assert flusher.wants(made(), is_changed=True)


def test_a_document_that_is_created_again_after_a_delete_is_written(clock: Clock) -> None:
    flusher = Flusher(clock, bytes_min=1_000, seconds=1)
    flusher.wants(made(), is_changed=True)
    assert flusher.wants(replace(made(0), state=ABSENT), is_changed=True)
    assert flusher.wants(made(), is_changed=True)


async def test_flushing_a_deleted_document_does_not_mark_its_recreation_as_written(
    clock: Clock,
) -> None:
    flusher = Flusher(clock, bytes_min=1_000, seconds=1)
    flusher.wants(made(), is_changed=True)
    flusher.wants(replace(made(0), state=ABSENT), is_changed=True)
    await flusher.flush(is_final=True)
    assert flusher.wants(made(), is_changed=True)


def test_with_an_interval_of_zero_every_commit_writes(clock: Clock) -> None:
    flusher = Flusher(clock, bytes_min=0, seconds=0)
    assert [flusher.wants(made(), is_changed=changed) for changed in (True, True, False)] == [True] * 3


def test_write_times_past_the_interval_are_dropped(clock: Clock) -> None:
    flusher = Flusher(clock, bytes_min=1_000, seconds=1)
    for number in range(1_000):
        flusher.wants(made(name=f"d{number}"), is_changed=True)
        clock.now += 0.1
    assert len(flusher._written_at) <= 12


STEPS = st.lists(st.tuples(st.sampled_from(["put", "delete", "reject", "fail"]), st.floats(0, 2)))


@given(STEPS)
def test_a_state_is_omitted_only_if_the_row_has_one(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    flusher = Flusher(clock, bytes_min=1_000, seconds=1)
    is_present = has_row = False
    for step, seconds in steps:
        clock.now += seconds
        was_present = is_present
        is_present = {"put": True, "delete": False}.get(step, is_present)
        document = made() if is_present else replace(made(0), state=ABSENT)
        is_wanted = flusher.wants(document, is_changed=step in {"put", "delete"})
        if step == "fail":
            # The commit is rolled back, and the next projector's memory begins with what is stored.
            flusher.forget()
            is_present = was_present
        elif is_wanted:
            has_row = is_present
        assert is_wanted or has_row
