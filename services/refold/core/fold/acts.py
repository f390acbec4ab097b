"""What the events of a window did, as acts: one event's operations at the head of their time, in order.

An act goes down the identity model (`refold.core.fold.identity`) to the place that it changed. Acts of the author's own
session change the author's view too. What such an event did in the view only is kept with its outcome as *steps*:
it removed what another had removed before, or it was rejected or dropped while later events were in flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from refold.core.json_text import Json
from refold.core.pointer import parse

if TYPE_CHECKING:
    from refold.core.fold.identity import Content, Node


class Act:
    """One operation of an event, or one half of a `move`: it leaves (`out`) and arrives (`into`).

    `number` names it within its event. `partner` is the other half of a move. `places` are the places that it
    removed, `hidden` the ranges of them that the author removed too, `blur` an act that changed them in the view.
    `is_own`: it is of the author's session; `keeps`: it removed what the author still sees.
    """

    __slots__ = (
        "anchors",
        "blur",
        "count",
        "event",
        "hidden",
        "holder",
        "is_own",
        "keeps",
        "kind",
        "node",
        "number",
        "order",
        "partner",
        "places",
        "position",
        "tokens",
        "value",
    )

    def __init__(
        self, event: Change, kind: int, tokens: tuple[str, ...], number: int, *, is_own: bool
    ) -> None:
        self.event = event
        self.kind = kind
        self.tokens = tokens
        self.number = number
        self.is_own = is_own
        self.keeps = False
        self.value: Json = UNKNOWN
        self.position = 0
        self.count = 1
        self.anchors: list[Anchor] = []
        self.partner: Act | None = None
        self.blur: Act | None = None
        self.places: list[Any] = []
        self.hidden: list[tuple[int, int]] = []
        self.node: Node | None = None
        self.holder: Content | None = None
        self.order = 0

    @property
    def is_foreign(self) -> bool:
        """Tell whether view and head may differ by it; a value that arrives may have been changed elsewhere."""
        return not self.is_own or self.keeps or self.kind >= What.hide or self.kind is What.into

    @property
    def operation(self) -> int:
        """Count its event's effective operations before it."""
        return self.number // 2 if self.number >= 0 else int(self.event.steps[-1 - self.number][0])


class What:
    """What an act does; those from `hide` on change the author's view only. An enumeration would be slower."""

    add: Final = 0
    replace: Final = 1
    remove: Final = 2
    out: Final = 3
    into: Final = 4
    inc: Final = 5
    insert_text: Final = 6
    delete_text: Final = 7
    hide: Final = 8
    show: Final = 9
    show_text: Final = 10
    hide_text: Final = 11
    blur: Final = 12


ON_VALUE: Final = frozenset(
    {What.inc, What.insert_text, What.delete_text, What.show_text, What.hide_text, What.blur}
)
"""Acts on the value at their path that leave the value in its place."""

UNKNOWN: Final = object()
"""The value of a copy."""


class Anchor(NamedTuple):
    """A removed place that an insertion follows: the event and act that removed it, and the end of the range."""

    sequence: int
    number: int
    end: int


class Change(NamedTuple):
    """One event of a window: its effective patch, and its steps (`parse_steps`)."""

    version: int
    sequence: int
    session: str | None
    is_effective: bool
    operations: list[Json]
    steps: list[Json]


def acts_of(change: Change, *, is_own: bool) -> Iterator[Act]:
    """Yield an event's acts in order. Steps are of interest to its own session only."""
    steps = change.steps if is_own else []
    at = 0
    for place, operation in enumerate(change.operations):
        anchors: list[Anchor] = []
        keeps = False
        while at < len(steps) and steps[at][0] == place:
            step = steps[at]
            if step[1] == "at":
                anchors = [Anchor(*anchor) for anchor in step[2]]
            elif step[1] == "keep":
                keeps = True
            else:
                yield act_of_step(change, step, at)
            at += 1
        for act in acts_of_operation(change, operation, place, anchors, is_own=is_own):
            act.keeps = keeps
            yield act
    for number, step in enumerate(steps[at:], at):
        yield act_of_step(change, step, number)


def acts_of_operation(
    change: Change, operation: Json, number: int, anchors: list[Anchor], *, is_own: bool
) -> Iterator[Act]:
    """Yield the acts of one effective operation; a `test` has none."""
    name, tokens = operation["op"], parse(operation["path"])
    if name == "test":
        return
    if name == "move" and tokens:
        leaves = Act(change, What.out, parse(operation["from"]), 2 * number, is_own=is_own)
        act = Act(change, What.into, tokens, 2 * number + 1, is_own=is_own)
        leaves.partner, act.partner = act, leaves
        yield leaves
    else:
        act = Act(change, _KINDS[name], tokens, 2 * number, is_own=is_own)
        if name in {"add", "replace"}:
            act.value = operation["value"]
        elif name == "inc":
            act.value = operation["inc"]
        elif name == "str_ins":
            act.position, act.count, act.value = operation["pos"], len(operation["str"]), operation["str"]
        elif name == "str_del":
            act.position = operation["pos"]
            act.count = len(operation["str"]) if "str" in operation else operation["len"]
    act.anchors = anchors
    yield act


def act_of_step(change: Change, step: Json, place: int) -> Act:
    """Return the act of a step in an event's list: `[operations before it, kind, what, …]`."""
    _, name, what, *rest = step
    number = -1 - place
    if name == "gone":
        act = Act(change, What.hide, (), number, is_own=True)
        act.value, (act.position, act.count) = (what[0], what[1]), rest
        return act
    if name == "blurred":
        act = Act(change, What.blur, (), number, is_own=True)
        act.value = (what[0], what[1])
        return act
    act = Act(change, _STEPS[name], parse(what), number, is_own=True)
    if name == "hide_text":
        act.position, act.count = rest
    elif name == "show":
        act.anchors = [Anchor(*anchor) for anchor in rest[0]]
    elif name == "show_text":
        act.position, act.count = rest[:2]
        act.anchors = [Anchor(*anchor) for anchor in rest[2]]
    return act


_STEPS: Final = {
    "hide": What.hide,
    "show": What.show,
    "show_text": What.show_text,
    "hide_text": What.hide_text,
    "blur": What.blur,
}
_KINDS: Final = {
    "add": What.add,
    "copy": What.add,
    "replace": What.replace,
    "remove": What.remove,
    "move": What.replace,
    "inc": What.inc,
    "str_ins": What.insert_text,
    "str_del": What.delete_text,
}
