"""Regular expressions, against Python's own engine."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from refold.core.regex import Regex

SPACE = "\t\n\x0b\x0c\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
CHARACTERS = st.sampled_from(["a", "b", "-", "é", "\U0001f600", "1", " ", "\n", "\u2028", "_"])
# Each part in Refold's dialect and in Python's.
ATOMS = st.sampled_from(
    [
        *[(character, re.escape(character)) for character in "abé1_\U0001f600"],
        (".", "[^\\n\\r\\u2028\\u2029]"),
        (r"\d", "[0-9]"),
        (r"\W", "[^A-Za-z0-9_]"),
        (r"\s", f"[{SPACE}]"),
        (r"\u{1F600}", "\U0001f600"),
        ("[a-b]", "[a-b]"),
        ("[^a1]", "[^a1]"),
        (r"[\d\-b]", r"[0-9\-b]"),
        (r"[^\S\n]", f"[{SPACE.replace(chr(10), '')}]"),
        ("[^]", r"[\s\S]"),
        ("[]", "(?!)"),
    ]
)
COUNTS = st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,3}", "{2,}", "*?", "??"])


def _repeated(parts: Any) -> Any:
    return st.tuples(parts, COUNTS).map(lambda pair: tuple(f"(?:{text}){pair[1]}" for text in pair[0]))


def _joined(parts: Any, separator: str) -> Any:
    lists = st.lists(parts, min_size=1, max_size=3)
    return lists.map(
        lambda items: tuple(f"(?:{separator.join(texts)})" for texts in (zip(*items, strict=True)))
    )


EXPRESSIONS = st.recursive(
    st.one_of(ATOMS, ATOMS, st.just(("^", "^")), st.just(("$", r"\Z"))),
    lambda inner: st.one_of(
        _repeated(inner),
        _joined(inner, ""),
        _joined(inner, "|"),
    ),
    max_leaves=8,
)


@settings(max_examples=500)
@given(EXPRESSIONS, st.lists(st.text(CHARACTERS, max_size=8), min_size=1, max_size=8))
def test_a_text_matches_where_it_matches_in_python(expression, texts):
    pattern, python = expression
    found, expected = Regex(pattern), re.compile(python)
    results = [expected.search(text) is not None for text in texts]
    event("both results" if len(set(results)) == 2 else "one result")
    assert [found.search(text) for text in texts] == results
