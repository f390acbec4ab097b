"""The state at every version of one document, applied again from its entries: the same bytes as the fold made."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.document import ABSENT
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.history import NEVER, Clock, Point, snapshot_of
from refold.core.page import PackedEntries, pack, unpack
from refold.core.replay import state_at
from refold.core.stream import Record, route
from refold.store import DAMAGES
from support.events import CLOUD_EVENT, JSON_PATCH, MERGE_PATCH, SECOND, START, History, lines, subject_of
from support.json_values import copied, json_values, patches

ZERO = re.compile(rb"(?<![0-9.+-])0\.0(?![0-9])")
NEGATIVE_ZEROS = st.sampled_from([b"-0.0", b"-0", b"-0e7", b"-1E-999", b"-0.000"])
"""All but the integer are negative zeros to a parser that does not normalise."""

BINARY_EVENT = (("ce-specversion", "1.0"), ("ce-source", "s"), ("ce-type", "t"))
NATIVE_HEADERS = ((), (("Refold-Reply", "_INBOX.a"),), (("traceparent", "00-ce-00"), ("Refold-Meta", "{}")))


@st.composite
def changes(draw: st.DrawFn, state: Any) -> dict[str, Any]:
    """Return a change that often applies to the state."""
    kind = draw(st.sampled_from(["patch", "patch", "patch", "merge", "put", "delete"]))
    if kind == "patch":
        return {"patch": draw(patches({} if state is ABSENT else state))}
    return {kind: True if kind == "delete" else draw(json_values(6))}


@st.composite
def published(draw: st.DrawFn, state: Any, number: int) -> tuple[bytes, bytes]:
    """Return the headers and the body of an event in one of the published forms."""
    change = draw(changes(state))
    form = draw(st.sampled_from(["native", "native", "bare", "binary", "structured"]))
    media = {"patch": JSON_PATCH, "merge": MERGE_PATCH}.get(next(iter(change)))
    if form == "native" or media is None:
        headers, value = draw(st.sampled_from(NATIVE_HEADERS)), change
        if draw(st.booleans()):
            value = {"id": f"id {draw(st.integers(0, 5))}", "type": "t", **change}
    elif form == "structured":
        headers, value = (CLOUD_EVENT,), {"specversion": "1.0", "id": str(number), "source": "s", "type": "t"}
        value |= {"datacontenttype": media[1], "data": next(iter(change.values()))}
    else:
        about = () if form == "bare" else (*BINARY_EVENT, ("ce-id", str(number)))
        headers, value = (media, *about), next(iter(change.values()))
    body = json_text.dumps(value)
    if draw(st.booleans()):
        body = ZERO.sub(lambda _: draw(NEGATIVE_ZEROS), body)
    return lines(*headers), body


class Folded(History):
    """A document with its entries and the snapshot of every version."""

    def __init__(self, draw: Any, count: int) -> None:
        super().__init__()
        fold_state = FoldState(first_checkpoints("log-1"))
        self.entries, self.snapshots = [], [NEVER]
        for number in range(1, count + 1):
            state = ABSENT if self.state is ABSENT else copied(self.state)
            headers, body = draw(published(state, number))
            record = Record(number, START + number * SECOND, subject_of("n", "d"), headers, body)
            entry = fold_state.fold(record, route(record.subject), self.row).entry
            event(f"{entry.status.name} {entry.kind.name}")
            self.entries.append(entry)
            if entry.status.is_effective:
                self.snapshots.append(snapshot_of(self.row, self.state_bytes))


@settings(max_examples=120)
@given(st.data())
def test_a_state_applied_again_equals_the_folded_one_byte_for_byte(data):
    document = Folded(data.draw, data.draw(st.integers(1, 12)))
    cut = data.draw(st.integers(0, len(document.entries)))
    base = document.snapshots[sum(entry.status.is_effective for entry in document.entries[:cut])]
    entries = document.entries[cut:]
    page = pack(entries)
    assert unpack(page) == entries
    for expected in document.snapshots[base.version :]:
        point = Point(Clock.version, expected.version)
        assert state_at(base, entries, point) == expected
        assert state_at(base, PackedEntries(page), point) == expected


@settings(max_examples=120)
@given(st.data())
def test_a_damaged_page_raises_or_decodes_and_never_allocates_what_it_claims(data):
    document = Folded(data.draw, data.draw(st.integers(1, 6)))
    page = bytearray(pack(document.entries))
    for _ in range(data.draw(st.integers(1, 4))):
        page[data.draw(st.integers(0, min(len(page) - 1, 80)))] = data.draw(st.integers(0, 255))
    damaged = bytes(page[: data.draw(st.integers(0, len(page)) | st.just(len(page)))])
    try:
        assert sum(len(entry.body) for entry in unpack(damaged)) <= len(damaged)
        state_at(NEVER, PackedEntries(damaged), Point(Clock.version, document.row.version))
    except DAMAGES as error:
        event(type(error).__name__)
    else:
        event("decoded")
