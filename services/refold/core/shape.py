"""A value described without showing it: `string of 5 characters`, `array of 3`, `integer`, `null`.

For the `shape` of `Refused`; anyone may use it.
"""

from __future__ import annotations


def shape_of(value: object) -> str:
    """Name the kind of a JSON value and how large it is."""
    named = _SCALARS.get(type(value))
    if named:
        return named
    if isinstance(value, str):
        return f"string of {_counted(len(value), 'character')}"
    if isinstance(value, list):
        return f"array of {len(value)}"
    if isinstance(value, dict):
        return f"object of {_counted(len(value), 'member')}"
    if isinstance(value, bytes):
        return _counted(len(value), "byte")
    return type(value).__name__


def shortened(text: str) -> str:
    """Quote a key or a number of the author's, or its beginning."""
    return repr(text) if len(text) <= 40 else f"{text[:30]!r}… ({len(text)} characters)"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_SCALARS: dict[type, str] = {type(None): "null", bool: "boolean", int: "integer", float: "number"}
