"""Editing traces end exactly where they say: alone, in flight while others write, and of two people in one string."""

from __future__ import annotations

from random import Random

import pytest

from support.authors import Folded
from support.identities import Oracle
from support.typing_traces import WORDS, Typist

FIRST = "the first line\nand the second\n"
IN_FLIGHT_MAX = 12


def started(text: str) -> tuple[Folded, Typist, Random]:
    """Return a folded document with a text and its lines, and a typist."""
    random = Random(13)
    return Folded({"t": text, "lines": text.split("\n"), "n": 0}), Typist(random), random


@pytest.mark.parametrize("is_lines", [False, True], ids=["string", "lines"])
def test_a_trace_ends_where_it_says(is_lines):
    folded, typist, _ = started(FIRST)
    text = FIRST
    for _ in range(1_000):
        edit = typist.edit(text)
        operations = edit.line_operations(text, "/lines") if is_lines else edit.operations("/t")
        folded.publish({"patch": operations})
        text = edit.apply(text)
    assert (
        (folded.document.state["lines"] == text.split("\n"))
        if is_lines
        else folded.document.state["t"] == text
    )
    assert len(text) > 500


@pytest.mark.parametrize("is_lines", [False, True], ids=["string", "lines"])
def test_a_trace_with_edits_in_flight_ends_where_it_says_while_others_write(is_lines):
    folded, typist, random = started(FIRST)
    text, base = FIRST, 1
    for _ in range(600):
        edit = typist.edit(text)
        operations = edit.line_operations(text, "/lines") if is_lines else edit.operations("/t")
        if random.random() < 0.5:
            folded.publish({"patch": [{"op": "inc", "path": "/n", "inc": 1}]})
        folded.publish({"patch": operations, "base": base, "session": "s"}, is_kept=random.random() < 0.9)
        text = edit.apply(text)
        base = random.randint(max(base, folded.document.version - IN_FLIGHT_MAX), folded.document.version)
    assert (
        (folded.document.state["lines"] == text.split("\n"))
        if is_lines
        else folded.document.state["t"] == text
    )


def test_two_people_who_type_into_parts_of_one_string_each_get_their_part():
    """Each has several edits in flight, and sees the other's part as it was at its base."""
    random = Random(7)
    typists = [Typist(random), Typist(random)]
    parts, bases = ["left", "right"], [1, 1]
    versions = [["left", "right"]]
    folded = Folded({"t": "left|right"})
    for _ in range(800):
        who = random.randrange(2)
        seen = versions[bases[who] - 1][1 - who]
        edit = typists[who].edit(parts[who])
        shift = len(seen) + 1 if who else 0
        operations = edit._replace(position=edit.position + shift).operations("/t")
        folded.publish(
            {"patch": operations, "base": bases[who], "session": "ab"[who]}, is_kept=random.random() < 0.9
        )
        parts[who] = edit.apply(parts[who])
        versions.append(list(parts))
        if random.random() < 0.4:
            bases[who] = random.randint(bases[who], folded.document.version)
    assert folded.document.state["t"] == "|".join(parts)
    assert all(len(part) > 100 for part in parts)


def test_words_typed_at_one_place_at_the_same_time_do_not_mix():
    random = Random(11)
    folded = Folded({"t": "[]"})
    typed = {name: "".join(random.choices(WORDS, k=3)) for name in "abc"}
    sent = [name for name, word in typed.items() for _ in word]
    random.shuffle(sent)
    counts = dict.fromkeys(typed, 0)
    for name in sent:
        position = counts[name]
        counts[name] += 1
        insertion = {"op": "str_ins", "path": "/t", "pos": 1 + position, "str": typed[name][position]}
        folded.publish({"patch": [insertion], "base": 1, "session": name})
    text = folded.document.state["t"]
    assert len(text) == 2 + len(sent)
    assert all(word in text for word in typed.values())


def test_two_people_who_type_anywhere_in_one_string_end_where_the_oracle_says():
    random = Random(5)
    folded, oracle = Folded({"t": FIRST}), Oracle({"t": FIRST})
    typists, bases = [Typist(random), Typist(random)], [1, 1]
    for _ in range(400):
        who = random.randrange(2)
        session = "ab"[who]
        edit = typists[who].edit(oracle.view(bases[who], session)["t"])
        event = {"patch": edit.operations("/t"), "base": bases[who], "session": session}
        oracle.apply(event)
        folded.publish(event, is_kept=random.random() < 0.9)
        assert folded.document.state == oracle.head()
        if random.random() < 0.3:
            bases[who] = random.randint(max(bases[who], oracle.version - IN_FLIGHT_MAX), oracle.version)
