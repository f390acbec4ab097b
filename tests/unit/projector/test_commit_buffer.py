from __future__ import annotations

from refold.core.document import Document, Kind, Status
from refold.core.history import Entry
from refold.core.stream import Route
from refold.projector.commit_buffer import PAGE_EVENTS_MAX, CommitBuffer


def test_pages_of_documents_that_change_equally_often_do_not_fill_together():
    documents = [Document.new(Route.of("n", f"d{number}")) for number in range(200)]
    firsts, seconds = zip(*map(_page_events, documents), strict=True)
    assert all(PAGE_EVENTS_MAX // 2 <= first < PAGE_EVENTS_MAX for first in firsts)
    assert len(set(firsts)) > 32
    assert set(seconds) == {PAGE_EVENTS_MAX}


def _page_events(document: Document) -> tuple[int, int]:
    """Return how many events the first and the second page of a document hold."""
    buffer, document.state = CommitBuffer(0), {}
    while len(buffer.pages) < 2:
        document.events += 1
        document.version += 1
        at = document.version
        entry = Entry(
            at, at, at, at, at, Status.applied, Kind.patch, False, None, b"", b"", None, "", "", None, 0
        )
        buffer.add(document, entry)
    first, second = (len(page.entries) for page in buffer.pages)
    return first, second
