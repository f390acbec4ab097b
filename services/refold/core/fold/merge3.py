"""Three-way merges of values: what an author saw, what is at the head, and what the author wrote instead.

Objects are merged key by key, texts by position. Of two other values the incoming one stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter

from refold.core.json_text import Json, identical


def merged(seen: Json, head: Json, incoming: Json) -> Json:
    """Return the merged value; it shares parts with what it is made of."""
    if identical(seen, incoming):
        return head
    kinds = {type(seen), type(head), type(incoming)}
    if kinds == {dict}:
        return _merged_members(seen, head, incoming)
    if kinds == {str} and head not in {seen, incoming}:
        return _merged_texts(seen, head, incoming)
    return incoming


def _merged_members(seen: Json, head: Json, incoming: Json) -> Json:
    members = dict(head)
    for key in {**seen, **incoming}:
        if key not in incoming:
            # An edit inside keeps what another removes.
            if key in head and identical(seen[key], head[key]):
                del members[key]
        elif key not in head:
            if key not in seen or not identical(seen[key], incoming[key]):
                members[key] = incoming[key]
        elif type(head[key]) is dict and type(incoming[key]) is dict:
            base = seen.get(key)
            members[key] = merged(base if type(base) is dict else {}, head[key], incoming[key])
        else:
            members[key] = merged(seen[key], head[key], incoming[key]) if key in seen else incoming[key]
    return members


def member_changes(
    old: Json, new: Json, is_other: Callable[[tuple[str, ...]], bool], path: tuple[str, ...] = ()
) -> Iterator[dict[str, Json]]:
    """Yield operations that change members of objects; their `path` is a tuple of tokens.

    Where the old value at a path `is_other` than the one that was changed, it is replaced as a whole.
    """
    if type(old) is not dict or type(new) is not dict or is_other(path):
        if not identical(old, new):
            yield {"op": "replace", "path": path, "value": new}
        return
    for key in sorted({**old, **new}):
        if key not in new:
            yield {"op": "remove", "path": (*path, key)}
        elif key not in old:
            yield {"op": "add", "path": (*path, key), "value": new[key]}
        else:
            yield from member_changes(old[key], new[key], is_other, (*path, key))


def _merged_texts(seen: str, head: str, incoming: str) -> str:
    """Make both edits: what either removes is removed, what either inserts is there, the incoming first."""
    parts: list[str] = []
    at = 0
    edits = [(*_edit(seen, incoming), incoming), (*_edit(seen, head), head)]
    for begin, end, rest, text in sorted(edits, key=itemgetter(0)):
        parts += (seen[at:begin], text[begin : len(text) - rest])
        at = max(at, end)
    parts.append(seen[at:])
    return "".join(parts)


def _edit(old: str, new: str) -> tuple[int, int, int]:
    """Return where two texts differ: begin and end in the old one, and how many characters are the same after it."""
    most = min(len(old), len(new))
    begin = 0
    while begin < most and old[begin] == new[begin]:
        begin += 1
    rest = 0
    while rest < most - begin and old[-1 - rest] == new[-1 - rest]:
        rest += 1
    return begin, len(old) - rest, rest
