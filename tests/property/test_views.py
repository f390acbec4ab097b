"""Outcomes and changes that are written by a template are the canonical bytes of their views."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from refold.core import json_text, views
from refold.core.document import First, Kind, Status
from refold.core.fold.rules import Step
from refold.core.history import Entry
from refold.core.stream import Route, is_document_id
from refold.core.timestamp import TIME_MAX_NANOSECONDS, TIME_MIN_NANOSECONDS

NAMES = st.text("ABCxyz0189_-:=@+~", min_size=1, max_size=12)
DOCUMENTS = NAMES | st.text(min_size=1, max_size=12).filter(is_document_id)
TEXTS = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
TIMES = st.integers(TIME_MIN_NANOSECONDS, TIME_MAX_NANOSECONDS)
COUNTS = st.integers(0, 2**63 - 1)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    """Draw an entry; about half of them occurred when they were recorded."""
    recorded_at = draw(TIMES)
    return Entry(
        sequence=draw(COUNTS),
        time=recorded_at,
        recorded_at=recorded_at,
        occurred_at=draw(st.just(recorded_at) | TIMES),
        version=draw(COUNTS),
        status=draw(st.sampled_from(Status)),
        kind=Kind.patch,
        is_creation=draw(st.booleans()),
        subject=None,
        headers=b"",
        body=b"",
        effect=None,
        reason=draw(st.just("") | st.sampled_from(["bad_patch", "id_reused"])),
        detail=draw(st.just("") | st.text(st.characters(codec="utf-8"), max_size=20)),
        identity=None,
        first_sequence=0,
    )


FIRSTS = st.none() | st.builds(
    First,
    status=st.sampled_from([Status.applied, Status.rejected]),
    version=COUNTS,
    sequence=COUNTS,
    recorded_at=TIMES,
    is_creation=st.booleans(),
    reason=st.sampled_from(["", "bad_patch"]),
)


@given(namespace=NAMES, document=DOCUMENTS, entry=entries(), event_id=TEXTS, first=FIRSTS)
def test_an_outcome_is_the_same_by_template_and_by_view(
    namespace: str, document: str, entry: Entry, event_id: str | None, first: First | None
) -> None:
    where, step = Route.of(namespace, document), Step(entry, event_id, {}, first, None)
    assert views.step_json(where, step) == json_text.dumps(views.step_view(where, step))


METAS = st.dictionaries(st.text(max_size=5), TEXTS | COUNTS, max_size=3)
FIELDS = st.fixed_dictionaries({}, optional={"actor": TEXTS, "id": TEXTS, "type": TEXTS, "meta": METAS})
PATCHES = st.lists(st.fixed_dictionaries({"op": st.just("add"), "path": st.text(max_size=5), "value": TEXTS}))


@given(namespace=NAMES, document=DOCUMENTS, entry=entries(), fields=FIELDS, patch=PATCHES)
def test_a_change_is_the_same_by_template_and_by_view(
    namespace: str, document: str, entry: Entry, fields: dict[str, Any], patch: list[Any]
) -> None:
    where = Route.of(namespace, document)
    about = {name: fields[name] for name in ("meta",) if name in fields}
    view = {"namespace": namespace, "document": document, **views.change_view(entry, patch, fields), **about}
    assert views.change_json(where, entry, fields, json_text.dumps(patch)) == json_text.dumps(view)
