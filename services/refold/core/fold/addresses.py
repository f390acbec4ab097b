"""Addresses of places in a model, in a form that is kept: a path at the head, or one below what was removed.

The latter is `[sequence, unit, path]`: the event that removed or overwrote it, and which of that event's removals.
"""

from __future__ import annotations

from refold.core.fold.identity import Content, Place
from refold.core.fold.model import Model
from refold.core.json_text import Json
from refold.core.pointer import parse, render


def address_of_content(content: Content) -> Json:
    """Return the address of a content: a path at the head, or one below what was removed."""
    tokens: tuple[str, ...] = ()
    while True:
        node = content.node
        if content is not node.head:
            assert content.unit is not None
            return [*content.unit, render(tokens)]
        place = node.place
        if place is None:
            return render(tokens)
        if not place.is_live:
            assert place.unit is not None
            return [*place.unit, render(tokens)]
        tokens = (place.key, *tokens)
        content = place.home


def address_of_place(place: Place) -> Json:
    """Return the address of a place."""
    if not place.is_live:
        assert place.unit is not None
        return [*place.unit, ""]
    above = address_of_content(place.home)
    token = render((place.key,))
    return above + token if type(above) is str else [*above[:2], above[2] + token]


def find_content(model: Model, address: Json) -> Content | None:
    """Return the open content at an address; None where it was removed before the window."""
    if type(address) is str:
        return _content_at(model, model.root.head, parse(address))
    sequence, unit, path = address
    thing = find_named(model, sequence, unit)
    if thing is None:
        return None
    return _content_at(model, thing if isinstance(thing, Content) else thing.ensure_node().head, parse(path))


def find_place(model: Model, address: Json) -> Place | None:
    """Return the place at an address; None where it was removed before the window."""
    if type(address) is list and not address[2]:
        thing = find_named(model, *address[:2])
        return thing if isinstance(thing, Place) else None
    pointer = address if type(address) is str else address[2]
    above, token = parse(pointer)[:-1], parse(pointer)[-1]
    content = find_content(model, render(above) if type(address) is str else [*address[:2], render(above)])
    return None if content is None else model.place_in(content, token, model.value_of(content))


def _content_at(model: Model, content: Content, tokens: tuple[str, ...]) -> Content:
    for token in tokens:
        value = model.value_of(content)
        model.open(content, value)
        content = model.place_in(content, token, value).ensure_node().head
    model.open(content, model.value_of(content))
    return content


def find_named(model: Model, sequence: int, unit: int) -> Place | Content | None:
    """Return what was removed or overwritten by its name; None where that was before the window."""
    for thing in model.units.get(sequence, ()):
        assert thing.unit is not None
        count = thing.count if isinstance(thing, Place) else 1
        if thing.unit[1] <= unit < thing.unit[1] + count:
            return thing
    return None
