"""What the projector sends: outcomes joined by subject."""

from __future__ import annotations

import pytest

from refold.projector import notices
from refold.projector.notices import joined


def test_outcomes_for_a_subject_of_an_author_are_joined_in_order_and_those_for_an_inbox_are_not() -> None:
    replies = [
        ("refold.reply.a", b"1"),
        ("_INBOX.a", b"2"),
        ("refold.reply.b", b"3"),
        ("refold.reply.a", b"4"),
        ("_INBOX.a", b"5"),
    ]
    assert joined(replies) == [
        ("_INBOX.a", b"2"),
        ("_INBOX.a", b"5"),
        ("refold.reply.a", b"1\n4"),
        ("refold.reply.b", b"3"),
    ]


def test_a_single_outcome_is_sent_as_it_is() -> None:
    assert joined([("refold.reply.a", b"1")]) == [("refold.reply.a", b"1")]


def test_a_message_of_outcomes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "JOINED_BYTES_MAX", 5)
    replies = [("refold.reply.a", body) for body in (b"111", b"22", b"3", b"4444444", b"5")]
    assert joined(replies) == [
        ("refold.reply.a", b"111\n22"),
        ("refold.reply.a", b"3"),
        ("refold.reply.a", b"4444444"),
        ("refold.reply.a", b"5"),
    ]
