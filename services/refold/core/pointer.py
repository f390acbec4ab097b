"""JSON Pointer (RFC 6901): `""` is the root, `"/"` the member with the empty key. For all code that names a value."""

from __future__ import annotations

from collections.abc import Sequence

from refold.core.errors import Refused
from refold.core.json_text import Json, shape_of, shortened


def parse(pointer: str) -> tuple[str, ...]:
    """Split a pointer into its tokens, or raise `Refused`."""
    if not pointer:
        return ()
    if pointer[0] != "/":
        raise Refused("bad_pointer", 'a pointer is empty or begins with "/"', shape=shape_of(pointer))
    if "~" not in pointer:
        return tuple(pointer[1:].split("/"))
    if pointer.count("~") != pointer.count("~0") + pointer.count("~1"):
        raise Refused("bad_pointer", 'in a pointer "~" is followed by 0 or 1', shape=shape_of(pointer))
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/"))


def render(tokens: Sequence[str]) -> str:
    """Join tokens into a pointer."""
    return "".join([f"/{escape(token)}" for token in tokens])


def escape(token: str) -> str:
    """Escape one token for a pointer."""
    return token.replace("~", "~0").replace("/", "~1")


def resolve(state: Json, tokens: Sequence[str]) -> Json:
    """Return the value at a place, or raise `Refused`."""
    node = state
    try:
        for token in tokens:
            node = node[token] if type(node) is dict else node[index(token, len(as_container(node)))]
    except KeyError:
        raise missing_member(node, token) from None
    return node


def resolve_parent(state: Json, tokens: Sequence[str]) -> Json:
    """Return the object or array that holds the place, which need not be there yet, or raise `Refused`."""
    return as_container(state if len(tokens) == 1 else resolve(state, tokens[:-1]))


def as_container(node: Json) -> Json:
    """Return an object or an array as it is; refuse a value without members."""
    if type(node) is dict or type(node) is list:
        return node
    message = "the path leads into a value that has no members"
    raise Refused("target_missing", message, shape=shape_of(node))


def index(token: str, count: int) -> int:
    """Read an array index below `count`, or raise `Refused`."""
    # A longer one is past the end of any array, and Python would take quadratic time for it.
    if len(token) < 16 and token.isascii() and token.isdigit() and (token[0] != "0" or len(token) == 1):
        place = int(token)
        if place < count:
            return place
        message = f"the index must be below {count}" if count else "the array is empty"
        raise Refused("target_missing", message, shape=f"index {place}")
    message = "an array's index is digits without leading zeros"
    raise Refused("target_missing", message, shape=shape_of(token))


def missing_member(node: dict[str, Json], key: str) -> Refused:
    """Say that an object lacks the key."""
    return Refused("target_missing", f"there is no member {shortened(key)}", shape=shape_of(node))
