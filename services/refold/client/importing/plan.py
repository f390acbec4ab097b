"""From lines to events: a small patch from where the document stands, or the whole state where that is smaller.

Only `refold.client.importing` may use it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from refold.client.importing.heads import Head, Heads
from refold.client.importing.line import IMPORT, ORIGIN, Line
from refold.core import canonical
from refold.core.canonical import Json
from refold.core.diff import diff
from refold.core.document import ABSENT
from refold.core.errors import Refused
from refold.core.fold import EVENT_BYTES_MAX
from refold.core.split import split_write

DIGEST_CHARS: Final = 16


class Planned(NamedTuple):
    """What a line comes to, and the head after it.

    `event`: the line for the service; None where the line changes nothing, is there already (`is_present`), or
    is refused here (`refusal`). `put`: what its author says of a state that is too large for one event, which the
    service writes as several; `version` is the one that it is put at.
    """

    line: Line
    after: Head
    event: bytes | None = None
    put: dict[str, Json] | None = None
    version: int = 0
    is_present: bool = False
    refusal: Refused | None = None

    @property
    def is_sent(self) -> bool:
        """Tell whether the line goes to the service."""
        return self.event is not None or self.put is not None


def plan(line: Line, heads: Heads, file_digest: str, *, attempt: int = 0) -> Planned:
    """Make the event of a line for a document whose head is loaded, and take the head on.

    `attempt` counts from 1 when a line is tried again because another's change made it stale; then a later
    line of the document may have gone through, and does not say that this one has.
    """
    planned = _plan(line, heads, file_digest, attempt)
    if planned.event is not None or planned.put is not None:
        heads.put(line.document, planned.after, line.state)
    if planned.refusal is not None and line.version is not None:
        heads.broken_off.add(line.document)
    return planned


def _plan(line: Line, heads: Heads, file_digest: str, attempt: int) -> Planned:
    head = heads[line.document]
    if line.number <= head.line and not attempt:
        return Planned(line, head, is_present=True)
    if line.version is not None and (refusal := _out_of_turn(line.version, line, heads)):
        return Planned(line, head, refusal=refusal)
    change = _change(line, heads)
    if change is None:
        return Planned(line, head)
    about = _about(line, head, file_digest, attempt)
    written = canonical.dumps({"doc": line.document, **change, **about})
    if len(written) > EVENT_BYTES_MAX:
        return _plan_put(line, head, {name: said for name, said in about.items() if name != "base"})
    text = None if line.state is ABSENT else line.text
    return Planned(line, Head(head.version + 1, text, line.number), written)


def _plan_put(line: Line, head: Head, about: dict[str, Json]) -> Planned:
    """Plan a state that is too large for one event: it takes as many versions as events."""
    try:
        events = len(split_write(line.state, about))
    except Refused as refused:
        return Planned(line, head, refusal=refused)
    if line.version is not None and events > 1:
        rule = f"its state is written as {events} events, which take as many versions"
        return Planned(
            line, head, refusal=Refused("version_differs", rule, field="version", shape=str(line.version))
        )
    after = Head(head.version + events, line.text, line.number)
    return Planned(line, after, put=about, version=head.version)


def _out_of_turn(version: int, line: Line, heads: Heads) -> Refused | None:
    """Refuse a version that the line would not come to: a gap, or a document with a history of its own."""
    following = heads[line.document].version + 1
    if version != following:
        rule = f"the document's next version here is {following}"
    elif line.document in heads.broken_off:
        rule = "a line of the document before it was refused"
    else:
        return None
    return Refused("version_differs", rule, field="version", shape=str(version))


def _change(line: Line, heads: Heads) -> dict[str, Json] | None:
    """Return the event's change; None where there is none, and none is wanted."""
    is_absent = heads[line.document].text is None
    if line.state is ABSENT:
        return None if is_absent and line.version is None else {"delete": True}
    if is_absent:
        return {"put": line.state}
    patch = diff(heads.state(line.document), line.state)
    if not patch and line.version is None:
        return None
    return {"patch": patch} if _is_small(patch, line) else {"put": line.state}


def _is_small(patch: list[Json], line: Line) -> bool:
    """Tell whether a patch is smaller than its state: a small part of the line's text certainly is."""
    count = len(canonical.dumps(patch))
    # The diff itself gives up where its patch outgrows the state; a line may be mostly white space.
    return count * 4 < len(line.text) or not patch or count < canonical.size(line.state)


def _about(line: Line, head: Head, file_digest: str, attempt: int) -> dict[str, Json]:
    """Say whence it comes. The base makes another's change in between a conflict instead of a wrong state."""
    event_id = f"{IMPORT}:{file_digest[:DIGEST_CHARS]}:{line.number}@{head.version}"
    about: dict[str, Json] = {
        "id": f"{event_id}.{attempt}" if attempt else event_id,
        "base": head.version,
        "occurred_at": line.occurred_at,
        "meta": {**line.meta, IMPORT: {"file": file_digest, "line": line.number, **_origin(line)}},
    }
    said = {"actor": line.actor, "type": line.type}
    return about | {name: text for name, text in said.items() if text is not None}


def _origin(line: Line) -> dict[str, Json]:
    """Keep what an earlier import noted, the first one's of many: only our own note says what is here already."""
    if IMPORT not in line.meta:
        return {}
    note = line.meta[IMPORT]
    return {ORIGIN: note[ORIGIN] if isinstance(note, dict) and ORIGIN in note else note}
