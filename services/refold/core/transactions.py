"""Transactions over documents: which events of the log are the members of one, next to each other.

An event says with `txn` that it is a member. It is one only where the broker's own headers show that all members were
stored together, as one atomic batch. Used by `refold.core.fold_state`, and by readers of the log that keep the members
of a transaction together.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from refold.core.document import Document
from refold.core.envelope import open_envelope
from refold.core.errors import Refused
from refold.core.event import TRANSACTION_MEMBERS_MAX, Membership, read_membership
from refold.core.fold.rules import Decoded, Rules
from refold.core.stream import SYSTEM_NAMESPACE, Record, Route, author_headers

TRANSACTION_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bodies of the members of one transaction. A rule of fold 2: the members of a larger one are rejected."""

MEMBER_MARK: Final = b'"txn"'
"""Is in the body of every member."""


class Transaction(NamedTuple):
    """The members of a transaction, in the order of their sequences; `time` is the latest broker's time of them."""

    first_sequence: int
    members: tuple[Membership, ...]
    time: int

    @property
    def last_sequence(self) -> int:
        return self.first_sequence + len(self.members) - 1

    def member(self, sequence: int) -> Membership:
        """Return the member at a sequence."""
        return self.members[sequence - self.first_sequence]


class BatchPlace(NamedTuple):
    """Where the broker's headers say that an event is in an atomic batch; `number` counts from 1."""

    batch_id: bytes
    number: int
    is_last: bool


def may_be_member(record: Record) -> bool:
    """Tell whether a record may be a member of a transaction; a false True is possible.

    The field is in the body, and its name is written without escapes.
    """
    return MEMBER_MARK in record.body and b"Nats-Batch-Id: " in record.headers


def place_of(record: Record) -> BatchPlace | None:
    """Read a record's place in its batch; None where the broker's headers do not say one."""
    lines = b"".join(
        line + b"\r\n" for line in record.headers.split(b"\r\n") if line.lower().startswith(b"nats-batch-")
    )
    found = _PLACE.fullmatch(lines)
    return None if found is None else BatchPlace(found[1], int(found[2]), found[3] is not None)


def is_open(record: Record) -> bool:
    """Tell whether a record may be a member of a transaction that has more members after it."""
    place = place_of(record) if may_be_member(record) else None
    return place is not None and not place.is_last and place.number < TRANSACTION_MEMBERS_MAX


def end_of_part(records: Sequence[Record], begin: int, count: int) -> int:
    """Return where a part of so many records ends, or of more, so that no transaction is divided."""
    end = min(begin + count, len(records))
    while end < len(records) and is_open(records[end - 1]):
        end += 1
    return end


def begin_of_open(records: Sequence[Record]) -> int:
    """Return where a transaction begins of which more members are to come, or the number of records."""
    end = len(records)
    place = place_of(records[-1]) if is_open(records[-1]) else None
    if place is None:
        return end
    begin = bisect_left(records, records[-1].sequence - place.number + 1, key=itemgetter(0))
    size = sum(len(record.body) for record in records[begin:])
    return begin if size <= TRANSACTION_BYTES_MAX else end


class MembersAhead:
    """Finds the transaction that a record is a member of, among the records that were read together with it.

    `found` is that of the last record that was asked for, or of one before.
    """

    def __init__(self) -> None:
        self._records: Sequence[Record] = ()
        self.found: Transaction | None = None

    def read(self, records: Sequence[Record]) -> None:
        """Take what is folded next, which divides no transaction."""
        self._records = records

    def of(self, record: Record, rules: Rules, route_of: Callable[[bytes], Route]) -> Transaction | None:
        """Return the transaction of the next record, which has the broker's headers; None where it is in none."""
        if self.found is not None and record.sequence <= self.found.last_sequence:
            return self.found
        self.found = None
        if "txn" in rules.fields and may_be_member(record):
            records, at = self._records, bisect_left(self._records, record.sequence, key=itemgetter(0))
            if at == len(records) or records[at].sequence != record.sequence:
                records, at = [record], 0
            self.found = _transaction_at(records, at, rules, route_of)
        return self.found


def _transaction_at(
    records: Sequence[Record], at: int, rules: Rules, route_of: Callable[[bytes], Route]
) -> Transaction | None:
    """Return the transaction whose first member is at an index; None where that is none, or it is not whole."""
    members: list[Membership] = []
    first, size = records[at], 0
    begun = place_of(first)
    if begun is None:
        return None
    for record in records[at : at + TRANSACTION_MEMBERS_MAX]:
        place, where, position = place_of(record), route_of(record.subject), len(members)
        size += len(record.body)
        member = _membership(record, rules) if size <= TRANSACTION_BYTES_MAX and not where.reason else None
        if place is None or member is None or where.namespace == SYSTEM_NAMESPACE:
            return None
        if record.sequence != first.sequence + position or place[:2] != (begun.batch_id, position + 1):
            return None
        members.append(member)
        if member.position != position or (member.id, member.members) != (members[0].id, members[0].members):
            return None
        if place.is_last:
            time = max(each.time for each in records[at : at + len(members)])
            return (
                Transaction(first.sequence, tuple(members), time) if len(members) == member.members else None
            )
    return None


def as_member(decoded: Decoded, document: Document, *, is_whole: bool, is_known: bool) -> Decoded:
    """Return a decoded event, refused where it says that it is a member of a transaction and may not be folded as one.

    `is_known`: the settings that it names are kept. A member is not resolved: its base is the document's version.
    """
    event = decoded.event
    if event is None or "txn" not in event.fields:
        return decoded
    if not is_whole:
        rule = "the event is not stored in one atomic batch with exactly the other members"
        refused = Refused("bad_transaction", rule, field="txn")
    elif not is_known:
        refused = Refused(
            "settings_too_old", "the settings of that sequence are not kept", field="txn/settings"
        )
    elif event.base is not None and event.base != document.version:
        refused = Refused("conflict", f"the document is at version {document.version}", field="base")
    else:
        return decoded
    return decoded._replace(event=None, refused=refused)


def claimed_members(record: Record, rules: Rules) -> int:
    """Return how many members an event says that its transaction has; 0 where it is none."""
    found = _membership(record, rules)
    return 0 if found is None else found.members


def _membership(record: Record, rules: Rules) -> Membership | None:
    if not may_be_member(record):
        return None
    try:
        fields = open_envelope(author_headers(record.headers), record.body, rules.limits).fields
        return read_membership(fields["txn"], rules.limits) if "txn" in fields else None
    except Refused:
        return None


_PLACE: Final = re.compile(
    rb"Nats-Batch-Id: ([!-~]+)\r\nNats-Batch-Sequence: ([1-9]\d{0,3})\r\n(Nats-Batch-Commit: 1\r\n)?"
)
