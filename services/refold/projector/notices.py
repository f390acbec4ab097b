"""The messages that the projector sends: outcomes to their authors and changes after the fold, progress after a commit.

Never in a replay. Each may be lost, or sent again after a crash: the fold gives the same outcome and change again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from refold.core import json_text, views
from refold.core.envelope import reply_subject
from refold.core.fold.rules import Step
from refold.core.history import Entry, operations_of
from refold.core.json_text import Json
from refold.core.stream import Route
from refold.core.timestamp import format_time
from refold.log import COMMITTED_SUBJECT, PAYLOAD_BYTES_MAX, PROGRESS_SUBJECT, Message, change_subject
from refold.store import Rejection

NOTICE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX - 64 * 1024
"""A larger change notice is sent without its patch."""

JOINED_BYTES_MAX: Final = 256 * 1024
"""A message of several outcomes is sent when it has so many bytes."""

JOINED_PREFIX: Final = "refold.reply."
"""Subjects that get all outcomes of one turn in one message, but for those that carry a trace's context of their own; a
subject of an inbox gets one message for each."""


Notice = tuple[str, bytes]
"""Subject and body."""


def reply_notice(where: Route, step: Step) -> Notice | None:
    """Return the author's subject and the outcome for it; None where the author wants none."""
    if step.reply is None:
        return None
    return step.reply, views.step_json(where, step)


def joined(replies: list[Message]) -> list[Message]:
    """Put the outcomes for a subject of its author's own into one message, one a line, in their order."""
    if len(replies) < 2:
        return replies
    messages: list[Message] = []
    lines: dict[str, list[bytes]] = {}
    sizes: Counter[str] = Counter()
    for reply in replies:
        subject, body = reply[0], reply[1]
        if len(reply) > 2 or not subject.startswith(JOINED_PREFIX):
            messages.append(reply)
            continue
        if sizes[subject] + len(body) > JOINED_BYTES_MAX and sizes[subject]:
            messages.append((subject, b"\n".join(lines.pop(subject))))
            sizes[subject] = 0
        lines.setdefault(subject, []).append(body)
        sizes[subject] += len(body)
    return messages + [(subject, b"\n".join(bodies)) for subject, bodies in lines.items()]


def refusal_notice(rejection: Rejection, headers: bytes) -> Notice | None:
    """Return the author's subject and the outcome of an event whose subject names no document."""
    subject = reply_subject(headers)
    if subject is None:
        return None
    view = views.unroutable_view(
        rejection.sequence, rejection.recorded_at, rejection.reason, rejection.detail
    )
    return subject, json_text.dumps(view)


def change_notice(where: Route, step: Step) -> Notice | None:
    """Return subject and body of an effective event's change; None for any other."""
    entry, fields = step.entry, step.fields
    if not entry.status.is_effective or fields is None:
        return None
    body = views.change_json(where, entry, fields, _patch_json(entry, fields))
    if len(body) > NOTICE_BYTES_MAX:
        body = views.change_json(where, entry, fields, b"null")
    return change_subject(where.namespace, where.document), body


@dataclass(slots=True, kw_only=True)
class Announced:
    """What one projector has announced of its shard since its start, all on one connection and so in this order.

    `folded_sequence` is the sequence up to which outcomes and changes were sent, `changes_sent` counts the change
    notices, `changes_unsent` the effective events that were too old for one. `store` is its store's name where the log
    is folded into several.
    """

    shard: str
    started_at: int
    folded_sequence: int
    store: str = ""
    changes_sent: int = 0
    changes_unsent: int = 0


def progress_notice(committed_sequence: int, announced: Announced) -> Notice:
    """Return subject and body of how far a shard has committed and folded the log.

    Its epoch is the projector's start (nanoseconds of the broker's clock).
    """
    view: dict[str, Json] = {
        "sequence": committed_sequence,
        "folded": announced.folded_sequence,
        "shard": announced.shard,
        "epoch": format_time(announced.started_at),
        "sent": announced.changes_sent,
        "unsent": announced.changes_unsent,
    }
    if announced.store:
        view["store"] = announced.store
    return PROGRESS_SUBJECT, json_text.dumps(view)


def committed_notice(committed_sequence: int, announced: Announced) -> Notice:
    """Return subject and body of how far a shard of one of several stores is committed."""
    view: dict[str, Json] = {
        "store": announced.store,
        "shard": announced.shard,
        "sequence": committed_sequence,
        "epoch": format_time(announced.started_at),
    }
    return COMMITTED_SUBJECT, json_text.dumps(view)


def _patch_json(entry: Entry, fields: dict[str, Json]) -> bytes:
    """Return the effective patch. One operation's value is still as it was sent; several may have changed each other's
    values, which belong to the document by now, so that only the bytes tell them.
    """
    if entry.effect is not None:
        return entry.effect
    if len(fields.get("patch", ())) == 1:
        return json_text.dumps(fields["patch"])
    return json_text.dumps(operations_of(entry))
