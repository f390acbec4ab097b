"""A Refold that folds in memory: the client's methods that an import uses, over the real fold.

For tests of writes through the client. Tests inject concurrent writes and lost responses.
"""

from __future__ import annotations

from typing import Any

from refold.client.responses import Change, Namespace, Outcome
from refold.client.responses import Document as Found
from refold.core import json_text
from refold.core.document import ABSENT
from refold.core.errors import DocumentAbsent
from refold.core.fold import NEWEST
from refold.core.fold.rules import Folded
from support.events import History


class FoldingRefold:
    """It has one namespace."""

    def __init__(self) -> None:
        self.documents: dict[str, History] = {}
        self.sequence = 0
        self.appended: list[dict[str, Any]] = []
        self.requests = 0
        self.faults: list[Exception] = []
        """Raised in order by the next appends, after the events were folded."""
        self.before_append: list[Any] = []
        """Called in order before the next appends."""
        self.first_outcomes: dict[tuple[str, str], Any] = {}

    def state(self, document: str) -> Any:
        """The head's state, ABSENT if there is none."""
        return self.documents[document].state

    def publish(self, document: str, event: dict[str, Any]) -> Outcome:
        """Fold one event of any author."""
        history = self.documents.setdefault(document, History(document=document, rules=NEWEST))
        self.sequence += 1
        history.sequence = self.sequence - 1
        made = history.publish(event)
        if "id" in event:
            self.first_outcomes.setdefault((document, event["id"]), made)
        return self._outcome(made)

    async def outcome(self, _: str, document: str, *, event_id: str) -> Outcome:
        """Return the outcome of the first event with this id."""
        return self._outcome(self.first_outcomes[document, event_id])

    def _outcome(self, made: Any) -> Outcome:
        first = made.first.status.name if made.first else ""
        return Outcome(
            status=made.status.name,
            version=made.version,
            sequence=self.sequence,
            reason=made.first.reason if made.first else made.reason,
            detail=made.detail,
            first_status=first,
        )

    async def append(self, _: str, events: list[bytes], *, retry_seconds: float) -> list[Outcome]:
        """Fold a batch of events; the caller retries."""
        assert retry_seconds == 0
        if self.before_append:
            self.before_append.pop(0)()
        self.requests += 1
        outcomes = []
        for line in events:
            event = json_text.loads(line)
            self.appended.append(event)
            outcomes.append(self.publish(event.pop("doc"), event))
        if self.faults:
            raise self.faults.pop(0)
        return outcomes

    async def namespaces(self) -> list[Namespace]:
        """Count the folded events."""
        return [Namespace(name="n", documents=len(self.documents), events=self.sequence)]

    async def get(self, namespace: str, document: str, *, version: int) -> Found:
        """Return the head."""
        history = self.documents[document]
        assert version == history.row.version
        if history.state is ABSENT:
            raise DocumentAbsent
        return Found(namespace=namespace, id=document, version=version, state=history.state)

    async def history(self, _: str, document: str, *, limit: int | None = None, is_reversed: bool) -> Any:
        """Yield the changes, newest first."""
        assert is_reversed
        history = self.documents.get(document)
        effective = [it for it in (history.folded if history else []) if it.outcome.status.is_effective]
        for folded in list(reversed(effective))[:limit]:
            yield _change(folded)


def _change(folded: Folded) -> Change:
    event = folded.event
    assert event is not None
    meta, occurred_at = event.fields.get("meta"), event.fields.get("occurred_at", "1970-01-01T00:00:00Z")
    version = folded.outcome.version
    return Change(version=version, sequence=0, recorded_at="", occurred_at=occurred_at, patch=[], meta=meta)
