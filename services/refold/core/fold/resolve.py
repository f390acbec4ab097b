"""Apply a stale event's operations at the head, each to what its author meant. The strategies are decided here.

See `schemas/conflicts.md` for the rules by their ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from orjson import dumps, loads

from refold.core.errors import Refused
from refold.core.fold import resolve_values
from refold.core.fold.identity import Content, Node, Piece, Place
from refold.core.fold.merge3 import member_changes, merged
from refold.core.fold.resolution import MERGE, Resolution, conflict, only_seen
from refold.core.fold.sequence import Anchor
from refold.core.fold.view import TARGET_GONE, Gone, View
from refold.core.json_text import Json, copied, identical
from refold.core.pointer import parse, render, resolve


def apply_stale(resolution: Resolution, operations: Iterable[Json], *, is_whole: bool) -> None:
    """Apply all operations; `is_whole` where none may be dropped. Raises `Refused`, with all to be undone."""
    for number, item in enumerate(operations):
        try:
            _APPLY[item["op"]](resolution, item, parse(item["path"]))
        except Gone as gone:
            if gone.by is not None and resolution.is_first:
                raise conflict({gone.by.version}) from None
            if is_whole:
                message = f"operation {number} has nothing to apply to"
                raise Refused(gone.reason, message, field=f"patch/{number}/path") from None
            resolution.dropped.append({"operation": number, "reason": gone.reason})
            resolution.optimistic.follow(item)
        except Refused as refusal:
            refusal.field = f"patch/{number}/{refusal.field or 'path'}"
            raise


def add(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Write a member, or insert an element after its left neighbour."""
    if not tokens:
        _write_node(resolution, resolution.model.root, None, item)
        return
    parent, key = resolution.view.find(tokens[:-1]), tokens[-1]
    content = resolution.view.opened(parent)
    if content is None or (content.members is not None and key not in content.members):
        resolution.emit({"op": item["op"], "path": render((*parent.path(), key)), "value": item["value"]})
    elif content.members is not None:
        _write_member(resolution, content, key, item)
    else:
        path, anchors = resolution.gap(content, key)
        resolution.emit({"op": "add", "path": render(path), "value": item["value"]}, anchors)


def _write_member(resolution: Resolution, content: Content, key: str, item: Json) -> None:
    author = resolution.author
    seen, live = content.seen_member(author, key), content.live_member(key)
    if item["op"] == "replace":
        node = resolution.view.find(parse(item["path"])).node
        if node.is_optimistic and live is None:
            raise only_seen(node)
    if seen is not None and seen.ensure_node().is_alive():
        _write_node(resolution, seen.ensure_node(), seen, item)
        return
    resolution.put_member(content, key, item["value"])


def _write_node(resolution: Resolution, node: Node, place: Place | None, item: Json) -> None:
    """Write to a node that is at the head, wherever it is."""
    versions = node.written(resolution.author, place)
    if versions and resolution.strategy == MERGE and _merge(resolution, node, item, versions):
        return
    resolution.overwrite(versions)
    name = item["op"] if place is node.place else "replace"
    resolution.emit({"op": name, "path": render(node.path()), "value": item["value"]})


def _merge(resolution: Resolution, node: Node, item: Json, versions: set[int]) -> bool:
    """Merge a value with what others wrote to the same node since; tell whether both kinds of value can be."""
    try:
        seen = View(resolution.model, resolution.author.without_optimistic()).value(node)
    except Gone:
        # The author does not know what others made there.
        return False
    path, incoming = node.path(), copied(item["value"])
    head = resolve(resolution.edit.root, path)
    if {type(seen), type(head), type(incoming)} not in ({dict}, {str}):
        return False
    resolution.merged |= versions

    def is_other(below: tuple[str, ...]) -> bool:
        return bool(below) and resolution.is_moved_in(path + below)

    for operation in member_changes(head, merged(seen, head, incoming), is_other):
        resolution.write_merged(path, operation)
    if not _shows(resolution, node, incoming):
        resolution.optimistic.cover(node)
    return True


def _shows(resolution: Resolution, node: Node, value: Json) -> bool:
    """Tell whether the author sees a node hold a value."""
    try:
        return identical(resolution.view.value(node), value)
    except Gone:
        return False


def replace(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Write to a value where it is; put back what was removed."""
    if not tokens:
        _write_node(resolution, resolution.model.root, None, item)
        return
    content, key = resolution.view.opened(resolution.view.find(tokens[:-1])), tokens[-1]
    if content is not None and content.has_touched(key):
        _write_member(resolution, content, key, item)
        return
    node, place, rest = found = resolution.view.find(tokens)
    if rest:
        resolution.emit({"op": "replace", "path": render(found.path()), "value": item["value"]})
    elif node.is_optimistic:
        raise only_seen(node)
    elif node.is_alive():
        _write_node(resolution, node, place, item)
    else:
        assert isinstance(place, Piece)
        _revive(resolution, place, item)


def _revive(resolution: Resolution, place: Piece, item: Json) -> None:
    """Put an element that was removed back to where the author sees it."""
    resolution.overwrite(resolution.gone_by(place.ensure_node()))
    sequence = place.block.sequence
    path = (*sequence.content.node.path(), str(sequence.position_after(place)))
    resolution.emit({"op": "add", "path": render(path), "value": item["value"]}, sequence.anchors(place))
    resolution.optimistic.hide(place)


def remove(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Remove a value where it is; nothing where it is gone."""
    try:
        node, place, rest = found = resolution.view.find(tokens)
        if node.is_optimistic:
            raise only_seen(node)
    except Gone as gone:
        if gone.reason != TARGET_GONE or (gone.by is not None and resolution.is_first):
            raise
        resolution.optimistic.follow(item)
        return
    if rest or place is None:
        resolution.emit({"op": "remove", "path": render(found.path())})
    elif node.is_alive():
        resolution.overwrite(node.written(resolution.author, place))
        was = node.place
        resolution.emit({"op": "remove", "path": render(node.path())})
        if place is not was:
            resolution.optimistic.hide(place)
    else:
        if resolution.is_first:
            raise Gone(TARGET_GONE, node.head.gone_by())
        resolution.optimistic.hide(place)


def move(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Move a value from where it is now."""
    source = parse(item["from"])
    if not source:
        return
    found = resolution.view.find(source)
    if found.node.is_optimistic:
        raise only_seen(found.node)
    place = resolution.view.place(source)
    if source == tokens:
        return
    node = place.ensure_node()
    if not node.is_alive():
        raise Gone(TARGET_GONE, node.head.gone_by())
    resolution.overwrite(resolution.author.others(node.moves))
    if not tokens:
        root = {"op": "add", "value": copied(resolve(resolution.edit.root, node.path()))}
        _write_node(resolution, resolution.model.root, None, root)
        return
    # The target is what the path means when the value has left its place.
    place.removed.append(resolution.optimistic_stamp)
    _recount(place)
    try:
        target = _target(resolution, tokens, node)
    except (Gone, Refused, LookupError):
        place.removed.pop()
        _recount(place)
        raise
    was = node.place
    if place is not was:
        place.removed.pop()
        resolution.optimistic.hide(place)
    _carry(resolution, node, target, tokens[-1])


def _recount(place: Place) -> None:
    if isinstance(place, Piece):
        place.block.count()


def _target(resolution: Resolution, tokens: tuple[str, ...], node: Node) -> Content:
    """Return a move's container, and check what others did to the member there."""
    content, key = resolution.view.container(tokens[:-1]), tokens[-1]
    leaves, path = node.path(), content.node.path()
    if path[: len(leaves)] == leaves:
        raise Refused("cycle", "the value would move into itself", field="path")
    if content.members is None:
        resolution.gap(content, key)
    elif key in content.members:
        live = content.live_member(key)
        versions = resolution.author.others(content.keys.get(key, ()))
        if live is not None and live is not node.place:
            versions |= live.ensure_node().written(resolution.author, live)
        resolution.overwrite(versions)
    return content


def _carry(resolution: Resolution, node: Node, target: Content, key: str) -> None:
    """Move a node at the head, by way of the end of its array where the new path would begin with the old."""
    leaves = node.path()
    value = resolve(resolution.edit.root, leaves)
    place = node.place
    assert place is not None
    resolution.model.remove(place, resolution.stamp, resolve(resolution.edit.root, leaves[:-1]))
    resolution.edit.count_carried(len(dumps(value)))
    resolution.change({"op": "remove", "path": render(leaves)})
    path: tuple[str, ...] = (*target.node.path(), key)
    anchors: list[Anchor] = []
    if target.sequence is not None:
        path, anchors = resolution.gap(target, key)
    is_below = len(path) > len(leaves) and path[: len(leaves)] == leaves
    put = (*leaves[:-1], "-") if is_below else path
    anchors = resolution.note([] if is_below else anchors)
    resolution.model.put(put, node, resolution.stamp, anchors)
    resolution.effect.append({"op": "move", "from": render(leaves), "path": render(put)})
    resolution.change({"op": "add", "path": render(put), "value": value})
    if is_below:
        _carry(resolution, node, target, key)
    elif target.members is not None:
        resolution.hide_others(target, key)


def copy(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Add the value that the author sees."""
    found = resolution.view.find(parse(item["from"]))
    value = resolve(resolution.edit.root, found.path()) if found.rest else resolution.view.value(found.node)
    written = dumps(value)
    resolution.edit.count_carried(len(written))
    add(resolution, {"op": "add", "path": item["path"], "value": loads(written)}, tokens)


_APPLY: Final = {
    "add": add,
    "copy": copy,
    "replace": replace,
    "remove": remove,
    "move": move,
    "push": resolve_values.push,
    "test": resolve_values.test,
    "inc": resolve_values.inc,
    "str_ins": resolve_values.insert_text,
    "str_del": resolve_values.delete_text,
}
