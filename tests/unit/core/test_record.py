"""The route of a subject, and which header lines belong to the author."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.core.errors import Refused
from refold.core.stream import (
    Route,
    author_headers,
    check_name,
    check_namespace,
    partition_of,
    route,
    stored_subject,
)

LONGEST = "x" * 128
ALPHABET = "ABCXYZabcxyz0189_-:=@+~"


@pytest.mark.parametrize(
    ("namespace", "document", "partition"),
    [
        ("n", "d", 15),
        ("_refold", "log", 50),
        ("_refold", "fold", 63),
        ("ACME", "ORDER-1", 47),
        ("eol", "python", 53),
        (LONGEST, "y" * 128, 5),
        ("A-Z_0:=@+~", "~+@=:_-9z", 11),
        ("foo", "bar", 40),
    ],
)
def test_a_partition_matches_that_of_nats_server_2_15_1(namespace, document, partition):
    assert partition_of(namespace.encode(), document.encode()) == partition


@pytest.mark.parametrize(("text", "fnv1a"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)])
def test_a_partition_is_fnv_1a_32_modulo_64(text, fnv1a):
    assert partition_of(text, b"") == fnv1a % 64


def test_the_names_are_hashed_without_a_separator():
    assert partition_of(b"ab", b"c") == partition_of(b"a", b"bc") == 11


@pytest.mark.parametrize(
    "subject", [b"log.15.n.d", b"state.n.d", b"n.d", b"a.b.c.n.d", b"log.99.n.d", b"\xff.n.d"]
)
def test_only_the_last_two_tokens_determine_the_route(subject):
    assert route(subject) == Route(15, "n", "d", "", subject == b"log.15.n.d")


@pytest.mark.parametrize("name", [ALPHABET, "x", LONGEST, "-", "~", "0"])
def test_a_name_is_one_token_of_the_documented_alphabet(name):
    assert route(stored_subject(0, "n", name))[1:4] == ("n", name, "")
    assert check_name(name, "document") == name


@pytest.mark.parametrize(
    "name", ["", "x" * 129, "a b", "a*", "*", ">", "a/b", "a.b", "é", "a\n", "a\x00", "$a", "a,b", "\uff11"]
)
def test_any_other_name_is_refused_with_the_rule(name):
    with pytest.raises(Refused, match="1 to 128 of A-Z a-z 0-9 _ - : = @") as refused:
        check_name(name, "document")
    assert (refused.value.reason, refused.value.field) == ("bad_name", "document")


@pytest.mark.parametrize(
    "token", [b"", b"*", b">", b"x" * 129, b"\xff\xfe", b"a\x00", "é".encode(), b"a b", b"d\n"]
)
def test_an_invalid_name_is_unroutable_but_has_its_partition(token):
    expected = Route(partition_of(b"n", token), "", "", "bad_name")
    assert route(b"log.7.n." + token) == expected
    assert route(b"state." + token + b".d") == expected._replace(partition=partition_of(token, b"d"))


@pytest.mark.parametrize("subject", [b"", b"one", b".", b"..", b"x" * 3000, b"\x00"])
def test_a_subject_without_two_names_is_unroutable(subject):
    assert route(subject).reason == "bad_name"


@pytest.mark.parametrize("namespace", ["_", "_refold2", "_REFOLD", "__", "_mine"])
def test_a_namespace_that_begins_with_an_underscore_is_reserved(namespace):
    assert route(f"log.1.{namespace}.d".encode()) == Route(
        partition_of(namespace.encode(), b"d"), "", "", "reserved_namespace"
    )
    with pytest.raises(Refused) as refused:
        check_namespace(namespace)
    assert refused.value.reason == "reserved_namespace"


def test_the_system_namespace_is_routable_but_not_allowed_to_authors():
    assert route(b"log.50._refold.log") == Route(50, "_refold", "log", "", True)
    with pytest.raises(Refused):
        check_namespace("_refold")


def test_a_document_may_begin_with_an_underscore():
    assert route(stored_subject(0, "n", "_d")).reason == ""


@pytest.mark.parametrize(
    ("stored", "authors"),
    [
        (b"", b""),
        (b"A: 1\r\n", b"A: 1\r\n"),
        (b"Nats-Msg-Id: 1\r\n", b""),
        (b"A: 1\r\nNats-Msg-Id: 1\r\nB: 2\r\n", b"A: 1\r\nB: 2\r\n"),
        (b"Nats-A: 1\r\nNats-B: 2\r\n", b""),
        (b"X-Nats-A: 1\r\nB: Nats-C\r\n", b"X-Nats-A: 1\r\nB: Nats-C\r\n"),
        (b"A: 1\nNats-B: 2\r\nC: 3\r\n", b"A: 1\nNats-B: 2\r\nC: 3\r\n"),
        (b"Nats-A: 1\nB: 2\r\nC: 3\r\n", b"C: 3\r\n"),
        (b"Nats-A: 1\rB: 2\r\nC: 3\r\n", b"C: 3\r\n"),
        (b"nats-a: 1\r\n", b"nats-a: 1\r\n"),
        (b"Nats-A", b""),
    ],
)
def test_headers_that_do_not_begin_with_nats_belong_to_the_author(stored, authors):
    assert author_headers(stored) == authors


PIECES = [b"Nats-", b"\r\n", b"\r", b"\n", b"A: b", b"nats-", b"Nats-Batch-Id: x", b" ", b": "]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))
def test_only_header_lines_of_the_broker_are_removed(stored):
    lines = [line for line in stored.split(b"\r\n") if not line.startswith(b"Nats-")]
    assert author_headers(stored) == b"\r\n".join(lines)
