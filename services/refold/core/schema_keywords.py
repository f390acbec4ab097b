"""The keywords of a JSON Schema that check a value by itself, compiled to functions. Used by `refold.core.schema`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sized
from typing import Any, Final, NoReturn, TypeAlias

from refold.core.errors import Refused
from refold.core.json_text import Json, shape_of, shortened
from refold.core.pointer import render
from refold.core.regex import Regex

Check: TypeAlias = Callable[[Json], bool]
"""Tells whether a value is allowed."""


def _type(value: Json, tokens: tuple[str, ...]) -> Check:
    names = value if type(value) is list else [value]
    if not names or len(set(map(str, names))) < len(names):
        refuse_schema(tokens, "type is a name, or several different ones", value)
    if any(type(name) is not str or name not in _TYPES for name in names):
        refuse_schema(tokens, f"a type is one of {', '.join(sorted(_TYPES))}", value)
    types = frozenset(each for name in names for each in _TYPES[name])
    if "integer" in names and float not in types:
        return lambda found: type(found) in types or (type(found) is float and found.is_integer())
    return lambda found: type(found) in types


def _enum(value: Json, tokens: tuple[str, ...]) -> Check:
    if type(value) is not list:
        refuse_schema(tokens, "enum is an array", value)
    return _among(value)


def _const(value: Json, _tokens: tuple[str, ...]) -> Check:
    return _among([value])


def _among(values: list[Json]) -> Check:
    keys = frozenset(map(_key, values))
    return lambda found: _key(found) in keys


def _key(value: Json) -> Hashable:
    """Return a key that equal JSON values share: 1 and 1.0 have one, true has another."""
    if type(value) is bool:
        return ("boolean", value)
    if type(value) is list:
        return ("array", *map(_key, value))
    if type(value) is dict:
        return ("object", frozenset((name, _key(item)) for name, item in value.items()))
    key: Hashable = value
    return key


def _required(value: Json, tokens: tuple[str, ...]) -> Check:
    if (
        type(value) is not list
        or not all(type(name) is str for name in value)
        or len(set(value)) < len(value)
    ):
        refuse_schema(tokens, "required is an array of different names", value)
    names = frozenset(value)
    return lambda found: type(found) is not dict or names <= found.keys()


def _minimum(value: Json, tokens: tuple[str, ...]) -> Check:
    least = _number(value, tokens)
    return lambda found: type(found) not in _NUMBERS or found >= least


def _maximum(value: Json, tokens: tuple[str, ...]) -> Check:
    most = _number(value, tokens)
    return lambda found: type(found) not in _NUMBERS or found <= most


def _number(value: Json, tokens: tuple[str, ...]) -> int | float:
    if type(value) is not int and type(value) is not float:
        refuse_schema(tokens, f"{tokens[-1]} is a number", value)
    return value


def _length(kind: type[Sized], *, is_least: bool) -> Callable[[Json, tuple[str, ...]], Check]:
    def compiled(value: Json, tokens: tuple[str, ...]) -> Check:
        count = int(value) if type(value) is float and value.is_integer() else value
        if type(count) is not int or count < 0:
            refuse_schema(tokens, f"{tokens[-1]} is an integer from 0", value)
        if is_least:
            return lambda found: type(found) is not kind or len(found) >= count
        return lambda found: type(found) is not kind or len(found) <= count

    return compiled


def _pattern(value: Json, tokens: tuple[str, ...]) -> Check:
    if type(value) is not str:
        refuse_schema(tokens, "pattern is a string", value)
    try:
        search = Regex(value).search
    except Refused as refused:
        refuse_schema(tokens, f"pattern is a regular expression: {refused.message}", value)
    return lambda found: type(found) is not str or search(found)


def refuse_schema(tokens: tuple[str, ...], rule: str, value: Json) -> NoReturn:
    """Refuse a schema for the value that its tokens point to."""
    shape = shortened(value) if type(value) is str else shape_of(value)
    raise Refused("bad_schema", rule, field=render(tokens), shape=shape)


_NUMBERS: Final = frozenset({int, float})
_TYPES: Final[dict[str, frozenset[Any]]] = {
    "array": frozenset({list}),
    "boolean": frozenset({bool}),
    "integer": frozenset({int}),
    "null": frozenset({type(None)}),
    "number": _NUMBERS,
    "object": frozenset({dict}),
    "string": frozenset({str}),
}
KEYWORDS: Final[dict[str, Callable[[Json, tuple[str, ...]], Check]]] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    "minimum": _minimum,
    "maximum": _maximum,
    "required": _required,
    "minItems": _length(list, is_least=True),
    "maxItems": _length(list, is_least=False),
    "minLength": _length(str, is_least=True),
    "maxLength": _length(str, is_least=False),
    "pattern": _pattern,
}
"""By keyword: takes its value and the tokens of its pointer, and raises `Refused` where it allows no such value."""
