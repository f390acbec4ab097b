"""Shapes show kind and size, never the value."""

from __future__ import annotations

import pytest

from refold.core.json_text import shape_of, shortened


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (None, "null"),
        (True, "boolean"),
        (7, "integer"),
        (7.5, "number"),
        ("", "string of 0 characters"),
        ("x", "string of 1 character"),
        ("hello", "string of 5 characters"),
        ([1, 2, 3], "array of 3"),
        ({}, "object of 0 members"),
        ({"a": 1}, "object of 1 member"),
        (b"ab", "2 bytes"),
        ((1,), "tuple"),
    ],
)
def test_a_shape_names_kind_and_size(value, shape):
    assert shape_of(value) == shape


def test_a_long_text_is_shortened():
    assert shortened("key") == "'key'"
    assert shortened("k" * 1000) == f"{'k' * 30!r}… (1000 characters)"
