"""Change a document by an event that passed the checks which need no document. Every way of every fold calls this."""

from __future__ import annotations

from typing import Final

from refold.core.document import ABSENT, Document, Kind, Limits
from refold.core.errors import Refused
from refold.core.extensions import apply_extended, has_push
from refold.core.fold.rules import Rules
from refold.core.json_text import Json
from refold.core.merge import apply_merge
from refold.core.patch import RFC_6902, Operation, apply_patch


def apply_change(
    document: Document, kind: Kind, value: Json, operations: list[Operation], size: int, rules: Rules
) -> list[Json] | None:
    """Change state and size; return the effective patch where it is not the event's own.

    `operations` are a patch's, compiled; `size` counts the canonical bytes of a put. Raises `Refused`, and the state
    is as it was.
    """
    state, old_size = document.state, document.size
    is_absent = state is ABSENT
    if is_absent:
        state, old_size = {}, 2
    effect: list[Json] | None = None
    check = None if rules.settings.schema is None else rules.settings.check
    if kind is _PATCH and (rules.operations is RFC_6902 or not has_push(operations)):
        state, size = apply_patch(state, operations, size=old_size, limits=rules.limits, check=check)
    elif kind is _PATCH:
        limits = rules.limits
        state, size, effect = apply_extended(
            state, value, operations, size=old_size, limits=limits, check=check
        )
    elif kind is _MERGE:
        state, size, effect = apply_merge(state, value, size=old_size, limits=rules.limits, check=check)
    elif kind is _PUT:
        bytes_max = rules.limits.state_bytes
        if size > bytes_max:
            shape = f"{size} bytes"
            raise Refused("state_too_large", f"at most {bytes_max} bytes", field="put", shape=shape)
        if check is not None:
            check(value)
        state = value
    elif is_absent:
        raise Refused("document_absent", "there is nothing to delete", field="delete")
    else:
        state, size = ABSENT, 0
    document.state, document.size = state, size
    return effect


def checked_occurred_at(occurred_at: int, recorded_at: int, limits: Limits) -> int:
    """Return an author's time; refuse one that is too far after the recorded time."""
    if occurred_at > recorded_at + limits.occurred_ahead_nanoseconds:
        rule = "more than five minutes after recorded time"
        raise Refused("occurred_in_future", rule, field="occurred_at")
    return occurred_at


def advance(document: Document, sequence: int, recorded_at: int, occurred_at: int) -> None:
    """Give the document the version that an effective event makes."""
    document.version += 1
    document.version_sequence = sequence
    document.recorded_at = recorded_at
    document.occurred_at = occurred_at
    if occurred_at > document.occurred_max or document.version == 1:
        document.occurred_max = occurred_at


_PATCH: Final = Kind.patch
_MERGE: Final = Kind.merge
_PUT: Final = Kind.put
"""An enumeration's own look-up costs as much as the rest of a comparison."""
