"""Moves and copies of a stale event at the head. Called by the resolver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from refold.core.errors import Refused
from refold.core.fold.acts import Anchor
from refold.core.fold.gone import Gone
from refold.core.fold.identity import foreign_versions
from refold.core.fold.model import find
from refold.core.fold.places import node_of
from refold.core.fold.positions import after_removal, before_removal
from refold.core.json_text import Json
from refold.core.pointer import parse, render, resolve

if TYPE_CHECKING:
    from refold.core.fold.resolve import Resolver


def move(resolver: Resolver, item: Json, tokens: tuple[str, ...]) -> None:
    """Move a value from where it is now."""
    source = parse(item["from"])
    if source == tokens:
        find(resolver.model, tokens)
        return
    found = find(resolver.model, source)
    if not found.is_alive():
        raise Gone("target_gone", found.node.gone_by())
    if not found.rest:
        resolver.overwrite_all(foreign_versions(found.node.moves))
    leaves = found.path()
    if not tokens:
        resolver.add({"op": "add", "value": resolve(resolver.edit.root, leaves)}, tokens)
        return
    path, anchors = _destination(resolver, before_removal(resolver.model, tokens, source), leaves)
    was = found.node.place
    if path[: len(leaves)] == leaves and path != leaves:
        # A path may not begin with what leaves, though another element has moved up to there: by way of the end.
        count = len(resolve(resolver.edit.root, leaves[:-1]))
        resolver.emit({"op": "move", "from": render(leaves), "path": render((*leaves[:-1], "-"))})
        leaves = (*leaves[:-1], str(count - 1))
    resolver.emit({"op": "move", "from": render(leaves), "path": render(path)}, anchors)
    if not found.rest and found.place is not None and found.place is not was:
        resolver.steps.hide(found.place)


def _destination(
    resolver: Resolver, tokens: tuple[str, ...], leaves: tuple[str, ...]
) -> tuple[tuple[str, ...], list[Anchor]]:
    """Return where a move goes at the head, after the value has left its place."""
    anchors: list[Anchor] = []
    parent = find(resolver.model, tokens[:-1])
    content, key = parent.opened(), tokens[-1]
    if content is not None and content.sequence is not None:
        path, anchors = resolver.gap(content, key)
    else:
        path = (*parent.path(), key)
        if content is not None and content.members is not None and key in content.members:
            live = content.live_member(key)
            versions = foreign_versions(content.writes.get(key, []))
            if live is not None and path != leaves:
                versions |= node_of(live).written()
            resolver.overwrite_all(versions)
    if path[: len(leaves)] == leaves and len(path) > len(leaves):
        raise Refused("cycle", "the value would move into itself", field="path")
    return after_removal(resolver.edit.root, path, leaves), anchors


def copy(resolver: Resolver, item: Json, tokens: tuple[str, ...]) -> None:
    """Add the value that the author sees."""
    found = find(resolver.model, parse(item["from"]))
    if found.rest:
        value = resolve(resolver.edit.root, found.path())
    else:
        try:
            value = resolver.view.value(found.node)
        except Refused:
            # The author has added to what others made meanwhile, and does not see it.
            raise Gone("target_gone") from None
    written = orjson.dumps(value)
    resolver.edit.count_carried(len(written))
    resolver.add({"op": "add", "path": item["path"], "value": orjson.loads(written)}, tokens)
