"""The messages that the projector sends: outcomes to their authors and changes after the fold, progress after a commit.

Never in a replay. Each may be lost, or sent again after a crash: the fold gives the same outcome and change again.
"""

from __future__ import annotations

from typing import Final

from refold.core import json_text, views
from refold.core.envelope import reply_subject
from refold.core.fold.rules import Step
from refold.core.history import Entry, operations_of
from refold.core.json_text import Json
from refold.core.stream import Route
from refold.core.timestamp import format_time
from refold.log import PAYLOAD_BYTES_MAX, PROGRESS_SUBJECT, change_subject
from refold.store import Rejection

NOTICE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX - 64 * 1024
"""A larger change notice is sent without its patch."""


Notice = tuple[str, bytes]
"""Subject and body."""


def reply_notice(where: Route, step: Step) -> Notice | None:
    """Return the author's subject and the outcome for it; None where the author wants none."""
    if step.reply is None:
        return None
    return step.reply, json_text.dumps(views.step_view(where, step))


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
    view = {"namespace": where.namespace, "document": where.document}
    view |= views.change_view(entry, _patch_of(entry, fields), fields)
    body = json_text.dumps(view)
    if len(body) > NOTICE_BYTES_MAX:
        body = json_text.dumps(view | {"patch": None})
    return change_subject(where.namespace, where.document), body


def progress_notice(shard: str, started_at: int, committed_sequence: int, folded_sequence: int) -> Notice:
    """Return subject and body of how far a shard has committed and folded the log.

    Its epoch is the projector's start (nanoseconds of the broker's clock).
    """
    view: Json = {
        "sequence": committed_sequence,
        "folded": folded_sequence,
        "shard": shard,
        "epoch": format_time(started_at),
    }
    return PROGRESS_SUBJECT, json_text.dumps(view)


def _patch_of(entry: Entry, fields: dict[str, Json]) -> list[Json]:
    """Return the effective patch. One operation's value is still as it was sent; several may have changed each other's
    values, which belong to the document by now, so that only the bytes tell them.
    """
    if entry.effect is None and len(fields.get("patch", ())) == 1:
        return list(fields["patch"])
    return operations_of(entry)
