"""The dedup window: the ids of a document's last events and their outcomes."""

from __future__ import annotations

from hashlib import sha256

import pytest

from refold.core.dedup import (
    admit,
    content_digest,
    first_outcome,
    id_digest,
    pack_identities,
    recall,
    remember,
    unpack_identities,
)
from refold.core.document import First, Status
from refold.core.fold import ID_WINDOW_EVENTS, ID_WINDOW_IDS

CONTENT = content_digest(b"content")


def first(ordinal, **said):
    outcome = {"sequence": 2**63, "recorded_at": -5, "version": 9, "status": Status.applied}
    return First(**{"ordinal": ordinal, **outcome, "is_creation": True, "reason": "", **said})


def filled(count):
    window = {}
    for ordinal in range(1, count + 1):
        remember(window, id_digest(f"id-{ordinal}"), CONTENT, first(ordinal), ID_WINDOW_IDS)
    return window


def test_digests_are_the_first_16_bytes_of_sha_256():
    assert id_digest("é") == sha256("é".encode()).digest()[:16]
    assert content_digest(b"{}") == sha256(b"{}").digest()[:16]


@pytest.mark.parametrize(
    "outcome",
    [
        first(1),
        first(2**40, status=Status.rejected, version=0, reason="target_missing", is_creation=False),
        first(3, sequence=2**64 - 1, recorded_at=2**63 - 1, version=2**63 - 1),
    ],
)
def test_a_first_outcome_survives_packing(outcome):
    window = {}
    identity = remember(window, id_digest("x"), CONTENT, outcome, ID_WINDOW_IDS)
    assert first_outcome(identity) == outcome
    assert recall(window, id_digest("x"), outcome.ordinal + 1 - ID_WINDOW_EVENTS) == (CONTENT, outcome)


def test_an_unknown_id_is_not_found():
    assert recall(filled(3), id_digest("other"), 4 - ID_WINDOW_EVENTS) is None


def test_the_last_1000_ids_are_remembered_and_no_more():
    window = filled(ID_WINDOW_IDS + 1)
    assert len(window) == ID_WINDOW_IDS == 1_000
    assert recall(window, id_digest("id-1"), ID_WINDOW_IDS + 2 - ID_WINDOW_EVENTS) is None
    assert recall(window, id_digest("id-2"), ID_WINDOW_IDS + 2 - ID_WINDOW_EVENTS) is not None


def test_an_id_is_found_within_the_last_10000_events():
    window = filled(1)
    assert recall(window, id_digest("id-1"), 1) is not None
    assert recall(window, id_digest("id-1"), 2) is None


def test_an_id_reused_after_its_window_is_the_newest():
    window = filled(ID_WINDOW_IDS)
    remember(window, id_digest("id-1"), CONTENT, first(20_000), ID_WINDOW_IDS)
    assert len(window) == ID_WINDOW_IDS
    assert list(window)[-1] == id_digest("id-1")
    remember(window, id_digest("new"), CONTENT, first(20_001), ID_WINDOW_IDS)
    assert id_digest("id-1") in window
    assert id_digest("id-2") not in window


def test_a_window_is_rebuilt_from_the_stored_events():
    window = {}
    identities = []
    for ordinal in range(1, 1_500):
        # Every seventh id repeats long after its window.
        name = f"id-{ordinal % 7 or ordinal}"
        identities.append(remember(window, id_digest(name), CONTENT, first(ordinal * 20_000), ID_WINDOW_IDS))
    loaded = {}
    for identity in identities[-ID_WINDOW_IDS:]:
        admit(loaded, identity, ID_WINDOW_IDS)
    last = 1_500 * 20_000
    for digest in window | loaded:
        for ordinal in (last, last - 5_000, last - 20_000 + 1):
            assert recall(window, digest, ordinal - ID_WINDOW_EVENTS) == recall(
                loaded, digest, ordinal - ID_WINDOW_EVENTS
            )


@pytest.mark.parametrize("identities", [[], [b"x"], [b"a" * 59, b"", b"b" * 65_535]])
def test_the_ids_of_a_page_are_read_in_order(identities):
    assert unpack_identities(pack_identities(iter(identities))) == identities
