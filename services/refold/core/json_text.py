"""JSON text: strict parsing, canonical bytes, sizes, comparison. For all code that reads or writes authors' JSON."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, Final, NoReturn, TypeAlias

import orjson

from refold.core.errors import Refused

INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**64 - 1
"""Integers outside are refused: orjson would turn them into floats silently."""

TEXT_DEPTH_MAX: Final = 160
"""Nesting of a JSON text that is read: more than a state may have, less than orjson can write (254)."""


Json: TypeAlias = Any
"""What `loads` makes: None, bool, int, float, str, list, dict; never -0.0, never a lone surrogate."""


def loads(data: bytes, depth_max: int = TEXT_DEPTH_MAX) -> Json:
    """Parse strictly, or raise `Refused`.

    Of several faults it names the first of: not UTF-8, too deep, not JSON, a number out of range, a duplicate key,
    a lone surrogate.
    """
    try:
        value = orjson.loads(data)
        # A text that is written again byte for byte has no fault; but a negative zero also survives this.
        if orjson.dumps(value) != data or (
            # A search for one byte takes a tenth of one for four (15 and 150 ns in 140 bytes).
            _MINUS in data and b"-0.0" in data and _NEGATIVE_ZERO.search(data)
        ):
            return _scan(data, depth_max)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return _scan(data, depth_max)
    if len(data) > 2 * depth_max and _nesting_bound(data) > depth_max:
        _refuse_deeper(value, depth_max)
    return value


def loads_leniently(data: bytes) -> Json:
    """Parse what is compared, not kept; `Refused` where it is not JSON.

    Of two equal keys the last counts, an integer out of range is a float, and half of a surrogate pair stays.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.decode(), parse_int=orjson.loads)
    except (ValueError, RecursionError) as error:
        raise Refused("bad_json", f"not JSON: {error}") from None


def check_lenient(value: Json, levels: int) -> None:
    """Raise `Refused` where a value that was read leniently has what `loads` refuses, or more levels than these."""
    try:
        # Infinity is written as null.
        if orjson.loads(orjson.dumps(value)) == value:
            size_within(value, levels)
            return
    except orjson.JSONEncodeError:
        pass
    loads(json.dumps(value).encode(), levels)


def reread(data: bytes) -> Json:
    """Parse canonical bytes, which need no check."""
    return orjson.loads(data)


def object_in(data: bytes) -> dict[str, Json]:
    """Read an object that another program wrote; empty where the text is none."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def dumps(value: Json) -> bytes:
    """Write the canonical bytes: keys by code point, no white space, shortest digits."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def copied(value: Json) -> Json:
    """Return a value that shares nothing with another."""
    return orjson.loads(orjson.dumps(value))


def trimmed(written: bytes) -> bytes:
    """Copy what `dumps` wrote, where it is kept: orjson leaves its whole buffer with it, 4 KB or more."""
    return b"%b" % written


def size(value: Json) -> int:
    """Count the canonical bytes; they are as many in any order of keys."""
    return len(orjson.dumps(value))


def size_within(value: Json, levels: int) -> int:
    """Count the canonical bytes of a value of at most so many levels, or raise `Refused`."""
    written = orjson.dumps(value)
    count = len(written)
    # A level takes two bytes, so that a small value is shallow.
    if count > 2 * levels and _nesting_bound(written) > levels:
        _refuse_deeper(value, levels)
    return count


def equal(a: Json, b: Json) -> bool:
    """Compare as JSON does: 1 equals 1.0 at any depth, true never equals 1."""
    # Python's equality is right but for True, which equals 1.
    return bool(a == b) and (_plainly_same(a, b) or _same_booleans(a, b))


def identical(a: Json, b: Json) -> bool:
    """Compare by canonical bytes: 1 is not 1.0; costs no more than the smaller value."""
    return bool(a == b) and (_plainly_same(a, b) or dumps(a) == dumps(b))


def _plainly_same(a: Json, b: Json) -> bool:
    """Recognise most values that Python calls equal as the same: scalars of one type, keys in one order."""
    if type(a) is dict or type(a) is list:
        return orjson.dumps(a) == orjson.dumps(b)
    return type(a) is type(b)


def _same_booleans(a: Json, b: Json) -> bool:
    pairs = [(a, b)]
    while pairs:
        left, right = pairs.pop()
        if type(left) is dict:
            pairs.extend((item, right[key]) for key, item in left.items())
        elif type(left) is list:
            pairs.extend(zip(left, right, strict=True))
        elif (type(left) is bool) != (type(right) is bool):
            return False
    return True


def _nesting_bound(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


_WRITABLE_LEVELS: Final = 254
"""orjson refuses to write one level more: the quickest way to know a value's depth (its vectors hold it)."""


def _refuse_deeper(value: Json, levels: int) -> None:
    wrapped = value
    for _ in range(_WRITABLE_LEVELS - levels):
        wrapped = [wrapped]
    try:
        orjson.dumps(wrapped)
    except orjson.JSONEncodeError:
        _refuse_too_deep(levels, value)


def _refuse_too_deep(levels: int, value: object) -> NoReturn:
    raise Refused("too_deep", f"nested more than {levels} levels", shape=shape_of(value)) from None


# The slow path: what the fast one cannot prove, or must explain.


def _scan(data: bytes, depth_max: int) -> Json:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Refused("bad_json", f"not UTF-8 at byte {error.start}") from None
    if _text_depth(data, depth_max) > depth_max:
        _refuse_too_deep(depth_max, data)
    try:
        value = _STRICT.decode(text)
        if b"\\u" in data:
            orjson.dumps(value)
    except orjson.JSONEncodeError:
        message = "half of a surrogate pair stands alone in a string"
        raise Refused("lone_surrogate", message, shape=shape_of(data)) from None
    except (Refused, ValueError):
        _explain(text)
    return value


def _text_depth(data: bytes, enough: int) -> int:
    bound = _nesting_bound(data)
    if bound <= enough:
        return bound
    steps = _STRINGS.sub(b"", data).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0)


_MINUS: Final = ord("-")
_NEGATIVE_ZERO: Final = re.compile(rb"-0\.0(?![0-9])")
_STRINGS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


def _explain(text: str) -> NoReturn:
    """Raise the first fault in the order of `loads`."""
    try:
        _WELL_FORMED.decode(text)
    except ValueError as error:
        raise Refused("bad_json", f"not JSON: {error}") from None
    _IN_RANGE.decode(text)
    _STRICT.decode(text)
    raise AssertionError("the same text was refused a moment ago")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            message = f"an object has the key {shortened(key)} twice"
            raise Refused("duplicate_key", message, shape=shape_of(members))
        seen.add(key)
    return members


def _integer(digits: str) -> int:
    # Longer texts are not even converted: Python's time for it is quadratic.
    value = int(digits) if len(digits) <= 20 else INTEGER_MAX + 1
    if INTEGER_MIN <= value <= INTEGER_MAX:
        return value
    message = f"the integer {shortened(digits)} is outside -2^63 … 2^64-1"
    raise Refused("number_out_of_range", message, shape="integer")


def _number(digits: str) -> float:
    value = float(digits)
    if value - value == 0.0:
        return value or 0.0
    message = f"the number {shortened(digits)} is outside the range of a double"
    raise Refused("number_out_of_range", message, shape="number")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


_WELL_FORMED: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_constant)
_IN_RANGE: Final = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_constant)
_STRICT: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
)


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
