"""The shape of a rule set: what a fold number names. The modules beside this one fill it in, one for each number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final, NamedTuple, TypeAlias

from refold.core import json_text
from refold.core.document import Document, First, Limits, Outcome, Status
from refold.core.envelope import Envelope
from refold.core.errors import Refused
from refold.core.event import Event
from refold.core.history import Entry, Segment
from refold.core.json_text import Json
from refold.core.patch import OperationShape
from refold.core.settings import DEFAULTS, Settings
from refold.core.stream import PARTITIONS, Record, RecordFields

FOLD_MAX: Final = 2**31 - 1
"""The largest number that a store's integers hold."""


class Decoded(NamedTuple):
    """An event decoded without its document, as far as it could be, with the rule that it breaks."""

    envelope: Envelope | None
    event: Event | None
    refused: Refused | None


class Folded(NamedTuple):
    """An outcome and its event.

    `event` is None where it was not decoded, `identity` where it takes no place in the dedup window; `occurred_at`
    is the author's time, else the recorded one.
    """

    outcome: Outcome
    occurred_at: int
    event: Event | None = None
    event_id: str | None = None
    identity: bytes | None = None


class Step(NamedTuple):
    """One record folded: the entry that keeps it, and what its notices say in addition.

    `fields` are the author's, None where they could not be read; values in them belong to the document, and change
    with its next events. `first` is the outcome that a duplicate repeats, `reply` the subject that the author named
    for the outcome.
    """

    entry: Entry
    event_id: str | None
    fields: dict[str, Json] | None
    first: First | None
    reply: str | None


def entry_of(record: Record, folded: Folded, recorded_at: int, *, is_usual: bool) -> Entry:
    """Make the entry of a folded record, which has its author's headers only.

    `is_usual`: its subject is the one that its document's events are stored under.
    """
    sequence, time, subject, headers, body = record
    outcome, occurred_at, _, _, identity = folded
    status, version, kind, is_creation, reason, detail, effect, first, conflict = outcome
    return Entry(
        sequence,
        time,
        recorded_at,
        occurred_at,
        version,
        status,
        kind,
        is_creation,
        None if is_usual else subject,
        headers,
        body,
        None if effect is None else json_text.dumps(effect),
        reason,
        detail,
        identity,
        0 if first is None else first.sequence,
        None if conflict is None else json_text.dumps(conflict),
    )


Window: TypeAlias = Segment | None
"""The history of one document to its head, from the version that an event's rules asked for, or from before it."""


class Changed(NamedTuple):
    """What an event did to its document's state, which it has changed; see `Outcome`."""

    effect: list[Json] | None = None
    conflict: dict[str, Json] | None = None
    status: Status = Status.applied


ChangeRule: TypeAlias = Callable[[Document, Record, Event, "Rules", Window], Changed]
"""A fold number's rule of how an event changes its document. It raises `Refused`, and the state is as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A fold number's rules and limits, which never change once released: another rule is another number.

    `decode` reads a record without its document. `needs` returns the version after which `change` must be given the
    document's changes, None where it needs none; it is None where no event of this number ever needs any. `change`
    applies an event to its document's state, in place, and leaves it as it was where it raises `Refused`.

    `fold_usual` folds most events faster than these do, with the same result. It is given the record
    (with its author's headers only, none of which is a field of the event), the subject for the entry, the recorded
    time and the reply subject. It returns None, and has changed nothing, where the event is not of the usual form.

    `settings` are those of the namespace that the rules are for (`under`).
    """

    number: int
    limits: Limits
    operations: Mapping[str, OperationShape]
    decode: Callable[[Record, Rules], Decoded]
    needs: Callable[[Decoded, Document], int | None] | None
    change: ChangeRule
    fields: frozenset[str] = frozenset()
    """Fields of an event that fold 1 does not have."""
    fold_usual: (
        Callable[[Document, RecordFields, bytes | None, int, str | None, Rules], Step | None] | None
    ) = None
    settings: Settings = DEFAULTS

    def under(self, settings: Settings) -> Rules:
        """Return the rules for the events of a namespace with these settings."""
        # The usual way cannot undo what a schema does not allow.
        fold_usual = self.fold_usual if settings.schema is None else None
        return replace(self, limits=settings.lowered(self.limits), settings=settings, fold_usual=fold_usual)

    def genesis_state(self, log_id: str) -> dict[str, Json]:
        """Return the state of the genesis of a log that is made under these rules."""
        limits: dict[str, Json] = {
            name: each for name, each in asdict(self.limits).items() if each is not None
        }
        return {"log_id": log_id, "partitions": PARTITIONS, "fold": self.number, "limits": limits}
