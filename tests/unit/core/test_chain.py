"""The hash chain, computed here a second time from its description alone."""

from __future__ import annotations

from hashlib import sha256

import pytest

from refold.core.stream import Record, chain_link, chain_seed
from support.events import START, lines

# SHA-256 of 00000001 4c 0000000000000000; then of that, the numbers, and each length with its bytes.
SEED = "a0e3d982fff16f4d5ae3dcb2aac0822f94789efc85ac54a864811af8c369f43f"
LINKED = "8ff91f0e0cb196d0b4b63cec7fa7db72c0d07aa9dc0a0de7354fa7bdd99f47f5"


def eight(number):
    return number.to_bytes(8, "big", signed=number < 0)


def four(number):
    return number.to_bytes(4, "big")


def described(previous, sequence, time, subject, headers, body):
    return sha256(
        previous
        + eight(sequence)
        + eight(time)
        + four(len(subject))
        + subject
        + four(len(headers))
        + headers
        + four(len(body))
        + body
    ).digest()


def test_a_chain_starts_from_its_log_id_and_partition():
    assert chain_seed("é-1", 63) == sha256(four(len("é-1".encode())) + "é-1".encode() + eight(63)).digest()


def test_chains_differ_by_log_and_partition():
    assert len({chain_seed(log_id, partition) for log_id in ("a", "b") for partition in range(64)}) == 128


def test_a_known_chain_does_not_change():
    genesis = Record(1, START, b"log.0.a.b", b"A: 1\r\n", b"{}")
    assert chain_seed("L", 0).hex() == SEED
    assert chain_link(chain_seed("L", 0), genesis).hex() == LINKED


@pytest.mark.parametrize(
    "record",
    [
        Record(1, 0, b"log.15.n.d", b"", b""),
        Record(2**63, START, b"\xff\x00", b"A: 1\r\nb: \xff\r\n", b"\x00" * 70_000),
        Record(7, -1, b"", b"A: 1\r\nA: 1\r\n", b"x"),
    ],
)
def test_a_link_covers_previous_sequence_time_subject_headers_and_body(record):
    previous = bytes(range(32))
    assert chain_link(previous, record) == described(previous, *record)


def test_headers_of_the_broker_are_not_covered_in_any_position():
    stored = lines(("Nats-Msg-Id", "1"), ("B", "2"), ("Nats-Expected-Stream", "S"), ("A", "1"))
    record = Record(1, START, b"log.0.a.b", stored, b"{}")
    authors = lines(("B", "2"), ("A", "1"))
    assert chain_link(b"\x00" * 32, record) == described(b"\x00" * 32, 1, START, b"log.0.a.b", authors, b"{}")


ORIGINAL = Record(5, START, b"log.0.a.b", lines(("A", "1"), ("B", "2")), b"{}")


@pytest.mark.parametrize(
    "other",
    [
        ORIGINAL._replace(sequence=6),
        ORIGINAL._replace(time=START + 1),
        ORIGINAL._replace(subject=b"state.a.b"),
        ORIGINAL._replace(headers=lines(("B", "2"), ("A", "1"))),
        ORIGINAL._replace(headers=lines(("a", "1"), ("B", "2"))),
        ORIGINAL._replace(headers=ORIGINAL.headers + b"{}", body=b""),
        ORIGINAL._replace(body=b"{} "),
    ],
)
def test_any_change_of_an_event_changes_its_link(other):
    assert chain_link(b"\x00" * 32, other) != chain_link(b"\x00" * 32, ORIGINAL)


def test_any_change_of_an_earlier_event_changes_a_link():
    assert chain_link(chain_seed("L", 0), ORIGINAL) != chain_link(chain_seed("L", 1), ORIGINAL)
