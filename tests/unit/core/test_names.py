"""Document ids that are escaped in the token of a subject, from fold 2 on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.stream import Route, document_of, is_document_id, partition_of, route, token_of
from support.events import record
from support.fold2 import MOVE_ON
from support.vectors import vectors

PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-:=@+~")


@pytest.mark.parametrize("vector", vectors("fold2/names.json"))
def test_every_vector_has_its_expected_result(vector):
    token, document = vector["token"], vector["document"]
    assert document_of(token, 2) == document
    assert document_of(token, 1) == (document if PLAIN.issuperset(token) else None)
    if document is not None:
        assert token_of(document) == token
        assert is_document_id(document)


def test_a_document_is_stored_under_its_token_and_its_partition_is_that_of_the_bytes():
    where = Route.of("acme", "lib/node.js")
    partition = partition_of(b"acme", b"lib%2Fnode%2Ejs")
    assert where == Route(partition, "acme", "lib/node.js", "", True)
    assert where.subject == b"log.%d.acme.lib%%2Fnode%%2Ejs" % partition
    assert route(where.subject, 2) == where
    assert route(b"state.acme.lib%2Fnode%2Ejs", 2) == where._replace(is_usual=False)
    assert route(where.subject, 1) == Route(partition, "", "", "bad_name")


@pytest.mark.parametrize("subject", [b"state.node%2Ejs.d", b"state.n.\xff", b"state.n.\xc3\xa9", b"state.n."])
def test_a_namespace_is_plain_and_no_token_has_other_bytes(subject):
    assert route(subject, 2).reason == "bad_name"


def test_a_shard_routes_by_the_fold_number_in_force():
    shard = FoldState(first_checkpoints("log-1"))
    assert shard.route(b"state.n.a%2Eb").reason == "bad_name"
    moving = record(MOVE_ON, sequence=1, namespace="_refold", document="fold")
    # Folded where the partition is another shard's, which changes the number all the same.
    shard.skip(moving, shard.route(moving.subject))
    assert shard.fold_number == 2
    assert shard.route(b"state.n.a%2Eb").document == "a.b"


@given(st.text(max_size=50))
def test_an_id_has_one_token_and_a_token_one_id(text):
    if is_document_id(text):
        assert PLAIN.union("%").issuperset(token_of(text))
        assert document_of(token_of(text), 2) == text


@given(st.text(st.sampled_from("aZ9%2EFf-.é/ \x00"), max_size=12))
def test_no_other_token_stands_for_an_id(token):
    document = document_of(token, 2)
    if document is not None:
        assert token_of(document) == token
        assert is_document_id(document)


def test_nothing_that_is_invisible_is_printable_and_nothing_else_is_left_out():
    printable = [code for code in range(0x110000) if chr(code).isprintable()]
    visible = [code for code in printable if not is_document_id(f"a{chr(code)}")]
    # Variation selectors change how the character before them is drawn.
    assert all(0xE0100 <= code <= 0xE01EF for code in visible)
