"""What a gateway has received before its commit: the highest sequence of each document, for as long as needed."""

from __future__ import annotations

from typing import NoReturn

import pytest

from refold.gateway.announced import Announced
from refold.store import Key, partition_of_key

KEY, OTHER = ("n", "d"), ("m", "e")
PARTITION = partition_of_key(KEY)


def test_the_highest_sequence_of_a_document_counts_in_whatever_order_it_comes() -> None:
    announced = Announced()
    for sequence in (5, 9, 7):
        announced.note(PARTITION, KEY, sequence)
    assert announced.of_document(PARTITION, KEY) == 9
    assert announced.of_document(PARTITION, OTHER) == 0


def test_what_is_committed_is_forgotten_and_the_rest_is_kept() -> None:
    announced = Announced()
    for number in range(100):
        announced.note(PARTITION, ("n", f"d{number}"), number + 1)
    # A document that changes again is kept as long as its last event demands.
    announced.note(PARTITION, ("n", "d0"), 101)
    announced.forget(PARTITION, 60)
    assert len(announced._documents[PARTITION]) == 41
    assert announced.of_document(PARTITION, ("n", "d59")) == 0
    assert announced.of_document(PARTITION, ("n", "d60")) == 61
    assert announced.of_document(PARTITION, ("n", "d0")) == 101
    announced.forget(PARTITION, 101)
    assert announced._documents[PARTITION] == {}


def test_a_namespace_waits_for_its_own_documents_and_everything_for_all() -> None:
    announced = Announced()
    announced.note(PARTITION, KEY, 5)
    announced.note(partition_of_key(OTHER), OTHER, 8)
    assert dict(announced.of_namespace("n"))[PARTITION] == 5
    assert max(sequence for _, sequence in announced.of_namespace("n")) == 5
    assert max(sequence for _, sequence in announced.of_namespace("none")) == 0
    assert sorted(sequence for _, sequence in announced.of_namespace(None) if sequence) == [5, 8]


def test_what_a_namespace_waits_for_is_found_without_a_search_of_its_documents() -> None:
    class Unsearched(dict[Key, int]):
        """Documents that may be looked up, but not gone through."""

        def items(self) -> NoReturn:
            """Fail. Raises `AssertionError`."""
            raise AssertionError

        __iter__ = keys = values = items

    announced = Announced()
    announced.note(PARTITION, ("n", "first"), 3)
    announced.note(PARTITION, ("n", "second"), 7)
    announced.note(PARTITION, ("m", "other"), 9)
    announced.forget(PARTITION, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(announced, "_documents", [Unsearched(each) for each in announced._documents])
        assert announced.of_namespace("n")[PARTITION] == (PARTITION, 7)
        assert announced.of_namespace("m")[PARTITION] == (PARTITION, 9)
    announced.forget(PARTITION, 8)
    assert announced.of_namespace("n")[PARTITION] == (PARTITION, 0)
