"""Resolvers: pure functions that decide on conflicts under the strategy `custom:NAME`. For users of the client.

`@refold.resolver("NAME")` makes one; `refold resolver MODULE` runs those of a module as a service, by `settle`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, TypeAlias

from refold.client.client import Refold
from refold.client.requests import WriteOptions
from refold.client.responses import Conflict, Outcome, Patch, RecordedConflict, read_answer
from refold.core import json_text
from refold.core.errors import RefoldError, Refused
from refold.core.json_text import Json

CUSTOM: Final = "custom:"
"""Begins a strategy that a resolver decides."""

DECISIONS_MAX: Final = 8
"""Decisions on one conflict in a row, where others write to the document meanwhile."""

Decide: TypeAlias = Callable[[Json, Json, Json], Json]


class JsonPatch(list[Json]):
    """A decision that is a JSON Patch of the head, instead of a state."""


class Undecided(RefoldError, code="undecided"):
    """A resolver's decision cannot be published: the conflict stays open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """A function that decides on the conflicts of one name."""

    name: str
    decide: Decide

    def __call__(self, base: Json, head: Json, incoming: Json) -> Json:
        """Decide, as the function itself does."""
        return self.decide(base, head, incoming)


def resolver(name: str) -> Callable[[Decide], Resolver]:
    """Make a function the resolver of the strategy `custom:NAME`.

    The function is given the state that the author of the event saw (`base`), the document's newest one (`head`), and
    what the author made of it (`incoming`); None where the document is absent. It returns the state that the document
    shall have, None for none, or a `JsonPatch` of the head. It must be pure: it is called again where the document
    changes meanwhile, and its decision may be made by several processes.

    ```python
    @refold.resolver("cart")
    def union(base, head, incoming):
        return {**head, "items": sorted({*head["items"], *incoming["items"]})}
    ```
    """
    if not name:
        raise Refused("bad_usage", "a resolver has a name", field="name")
    return lambda decide: Resolver(name=name, decide=decide)


def resolvers_of(module: ModuleType) -> dict[str, Resolver]:
    """Return the resolvers of a module by the strategy. Raises `Refused` where it has none, or two of one name."""
    found: dict[str, Resolver] = {}
    for each in vars(module).values():
        if isinstance(each, Resolver) and found.setdefault(CUSTOM + each.name, each) is not each:
            raise Refused("bad_usage", f"two resolvers are named {each.name}", field=module.__name__)
    if not found:
        raise Refused(
            "bad_usage", 'has no resolver: decorate one with @refold.resolver("NAME")', field=module.__name__
        )
    return found


def read_notice(notice: dict[str, Any]) -> RecordedConflict:
    """Read a conflict as it is sent on `conflict.<ns>.<doc>`."""
    return read_answer(RecordedConflict, notice, is_open=True)


async def settle(refold: Refold, resolver: Resolver, conflict: RecordedConflict) -> Outcome | None:
    """Decide on an open conflict, and publish the decision, strictly at the head; return its outcome.

    Where the document has changed meanwhile, decide again. Returns None where another has settled it. Raises
    `Undecided`, and what the resolver raises; the conflict stays open then.
    """
    key = (conflict.namespace, conflict.document)
    if conflict.states is None:
        conflict = await refold.conflict(*key, conflict.sequence)
    for _ in range(DECISIONS_MAX):
        if not conflict.is_open:
            return None
        try:
            return await _publish(refold, resolver, conflict)
        except Conflict:
            conflict = await refold.conflict(*key, conflict.sequence)
    raise Undecided(
        f"others wrote to {'/'.join(key)} each of {DECISIONS_MAX} times", sequence=conflict.sequence
    )


async def _publish(refold: Refold, resolver: Resolver, conflict: RecordedConflict) -> Outcome:
    """Publish the decision for the head that the conflict has. Raises `Conflict` where that is no longer the head."""
    from refold.core.diff import diff  # noqa: PLC0415 - a program that only reads does without it.

    if conflict.states is None:
        raise Undecided("the event does not apply to what its author saw", sequence=conflict.sequence)
    decided = resolver.decide(*(_copy(conflict.states.get(name)) for name in ("base", "head", "incoming")))
    key, head = (conflict.namespace, conflict.document), conflict.head or 0
    options = WriteOptions(
        # One decision for each head, by any resolver and any number of times.
        id=f"resolves:{conflict.sequence}@{head}",
        actor=f"resolver:{resolver.name}",
        if_version=head,
        resolves=conflict.sequence,
    )
    if isinstance(decided, JsonPatch):
        return await refold.patch(*key, _patch(decided), **options)
    if "head" in conflict.states and decided is not None:
        return await refold.patch(*key, diff(conflict.states["head"], decided), **options)
    if "head" in conflict.states:
        return await refold.delete(*key, **options)
    if decided is None:
        raise Undecided("an absent document has no event that could settle it", sequence=conflict.sequence)
    return await refold.put(*key, decided, **options)


def _patch(decided: JsonPatch) -> Patch:
    return list(decided)


def _copy(state: Json) -> Json:
    """Return a state that a function may change."""
    return json_text.reread(json_text.dumps(state))
