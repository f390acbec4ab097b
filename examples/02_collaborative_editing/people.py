"""People who edit one document: by the Python client, or by plain NATS.

Each has a copy. An edit is made on the copy at once, and waits in the outbox with the version that the person last saw
as its `base`. `send` sends the outbox in order; `look` takes over the changes of all in the order of their versions.
"""

import json
from typing import Any
from uuid import uuid4

from nats.aio.client import Client as Nats

from refold.client import Outcome, Refold, apply_patch

NAMESPACE, DOCUMENT = "team", "party"
WAIT_SECONDS = 30


class Person:
    """Somebody with a copy of the document, who sends and looks by the Python client."""

    def __init__(self, name: str, refold: Refold) -> None:
        """Begin before the first version."""
        self.name = name
        self.refold = refold
        self.version = 0
        self.seen: Any = {}
        self.copy: Any = {}
        self.outbox: list[dict[str, Any]] = []

    def edit(self, *operations: dict[str, Any], **options: Any) -> None:
        """Change the copy, and put the change into the outbox."""
        patch = list(operations)
        self.copy = apply_patch(self.copy, patch)
        about = {"id": uuid4().hex, "actor": self.name, "session": self.name, "base": self.version}
        self.outbox.append({"patch": patch, **about, **options})

    def type(self, words: str, *, after: str) -> None:
        """Type into the notes, behind what the person reads there."""
        self.type_at(self.copy["notes"].index(after) + len(after), words)

    def type_at(self, position: int, words: str) -> None:
        """Type into the notes, at a position."""
        self.edit({"op": "str_ins", "path": "/notes", "pos": position, "str": words})

    def erase(self, words: str) -> None:
        """Erase words from the notes."""
        position = self.copy["notes"].index(words)
        self.edit({"op": "str_del", "path": "/notes", "pos": position, "len": len(words)})

    def card(self, text: str) -> str:
        """Return the pointer of a card where the person sees it: it may be elsewhere when the edit arrives."""
        return f"/cards/{[card['text'] for card in self.copy['cards']].index(text)}"

    async def send(self) -> list[Outcome]:
        """Send all at once, and return the outcomes. The outbox is kept if they do not come."""
        outcomes = await self.refold.append(NAMESPACE, [{"doc": DOCUMENT, **event} for event in self.outbox])
        self.outbox.clear()
        return outcomes

    async def look(self, _version: int = 0) -> None:
        """Take over all changes. Nothing of one's own is on the way then, so that the copy is what others see."""
        assert not self.outbox
        async for change in self.refold.history(NAMESPACE, DOCUMENT, after=self.version):
            self._take_over(change.version, change.patch)
        self.copy = self.seen

    def _take_over(self, version: int, patch: list[Any]) -> None:
        assert version == self.version + 1
        self.seen, self.version = apply_patch(self.seen, patch), version


class PersonOnNats(Person):
    """Somebody with any NATS client: events are published, outcomes and changes come as messages."""

    async def connect(self, client: Nats) -> None:
        """Subscribe to the outcomes of one's own events, and to everybody's changes."""
        self._client, self._inbox = client, client.new_inbox()
        self._outcomes = await client.subscribe(self._inbox)
        self._changes = await client.subscribe(f"change.{NAMESPACE}.{DOCUMENT}")
        await client.flush()

    async def send(self) -> list[Outcome]:
        """Publish all, then wait for the outcomes."""
        subject, headers = f"state.{NAMESPACE}.{DOCUMENT}", {"Refold-Reply": self._inbox}
        for event in self.outbox:
            await self._client.publish(subject, json.dumps(event).encode(), headers=headers)
        messages = [await self._outcomes.next_msg(timeout=WAIT_SECONDS) for _ in self.outbox]
        self.outbox.clear()
        answers = [json.loads(message.data) for message in messages]
        return [Outcome(status=answer["status"], version=answer.get("version")) for answer in answers]

    async def look(self, version: int = 0) -> None:
        """Take over the changes up to a version; a gap would have to be filled from the history."""
        while self.version < version:
            change = json.loads((await self._changes.next_msg(timeout=WAIT_SECONDS)).data)
            self._take_over(change["version"], change["patch"])
        self.copy = self.seen
