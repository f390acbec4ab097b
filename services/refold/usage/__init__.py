"""Exact counts of a log's events: by hour, namespace, actor, type and section, and by sessions of activity.

A projection of its own beside the fold: `events` reads one event, `reader` the log with the outcomes, `storage` keeps
the counts, `report` reads them. Used by `refold.wiring.usage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from refold.core.document import Status

FILE: Final = "usage.sqlite"
"""The counts, in the data folder."""

HOUR_NANOSECONDS: Final = 3_600 * 1_000_000_000

SESSION_GAP_NANOSECONDS: Final = 300 * 1_000_000_000
"""Events of a session are less than this apart; a later event begins another session."""

SECTIONS_MAX: Final = 200
"""Sections of a namespace that are counted by name, the first in the log; the others are `OTHER_SECTIONS`."""

OTHER_SECTIONS: Final = "…"
"""No section has this name: those begin with a slash."""

WHOLE_DOCUMENT: Final = ""
"""The section of an operation on a whole state, as a JSON pointer."""

TEXT_CHARS_MAX: Final = 256
"""Characters of an actor, a type, a session or a section. Longer ones are cut: values with the same
first 256 characters are counted together."""


class Counted(NamedTuple):
    """What is counted of one event.

    `time` is the broker's in nanoseconds, made monotonic over the log. `namespace` and `document` are empty where the
    subject names no document. `sections` has one section for each effective operation; none where the event had no
    effect. `bytes` are those of the body and the author's headers.
    """

    sequence: int
    time: int
    namespace: str
    document: str
    status: Status
    is_conflict: bool
    actor: str | None
    type: str | None
    session: str | None
    bytes: int
    sections: Sequence[str]
