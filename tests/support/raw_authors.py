"""Authors and a subscriber on NATS that record the bytes of every outcome and change that they receive.

For tests that kill processes: outcomes and changes may be sent again after a crash, or be lost, but never differ.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson

from refold.core.errors import LogUnavailable
from refold.log.jetstream.client import Client
from support.sent import NOTHING, Seen, Sent

TOGETHER_MAX = 4
OUTCOME_SECONDS = 5.0
"""An outcome that has not come by then is lost, or comes again after a restart."""
FAULT_SECONDS = 30.0
"""Changes may be lost only so long after a projector or the database was killed."""
LOSING = ("projector", "postgres", "backend")


@dataclass(slots=True, kw_only=True)
class Received:
    """What came over NATS: outcomes by sequence; changes by document and version; the newest change by document.

    `appended`: the documents and ids of the events that the log has acknowledged, by sequence.
    """

    sent: Sent
    outcomes: dict[int, bytes] = field(default_factory=dict)
    changes: dict[str, dict[int, bytes]] = field(default_factory=dict)
    newest: dict[str, Seen] = field(default_factory=dict)
    appended: dict[int, tuple[str, str]] = field(default_factory=dict)
    again: Counter[str] = field(default_factory=Counter)
    gaps: list[tuple[str, int, int]] = field(default_factory=list)

    def take_outcomes(self, body: bytes) -> None:
        """Record the outcomes of one message, one a line."""
        for line in body.splitlines():
            self._take_outcome(line)

    def _take_outcome(self, body: bytes) -> None:
        view = orjson.loads(body)
        sequence, what = view["sequence"], f"the outcome of sequence {view['sequence']}"
        known = self.outcomes.setdefault(sequence, body)
        self.again["outcomes"] += known is not body
        self.sent.expect(what, found=body, expected=known)
        self.sent.note(view["document"], view["version"], sequence, what)

    def take_change(self, document: str, body: bytes) -> None:
        """Record a change; note a gap, which may be only where notices were lost."""
        view = orjson.loads(body)
        version, what = view["version"], f"change {view['version']} of {document}"
        found = self.changes.setdefault(document, {})
        known = found.setdefault(version, body)
        self.again["changes"] += known is not body
        self.sent.expect(what, found=body, expected=known)
        seen = Seen(version, view["sequence"], what, self.sent.now)
        before = self.newest.get(document, NOTHING).version
        if version > before:
            self.newest[document] = seen
        if version > before + 1:
            self.gaps.append((document, before, version))
            if min(self.sent.last_fault(name) for name in LOSING) > FAULT_SECONDS:
                self.sent.violate("gap", f"{document}: change {version} came after {before}")
        self.sent.note(document, version, view["sequence"], what)


def subscribe(client: Client, namespace: str, received: Received) -> None:
    """Receive the changes of a namespace."""

    def take(subject: bytes, _: bytes, __: bytes, body: bytes) -> None:
        received.take_change(subject.decode().rpartition(".")[2], body)

    client.subscribe(f"change.{namespace}.*", take)


async def author_forever(
    client: Client,
    namespace: str,
    documents: list[str],
    name: str,
    received: Received,
    chance: random.Random,
    pause_seconds: float,
) -> None:
    """Publish events with a subject for the outcome: some are rejected, some are sent twice."""
    # Outcomes to an inbox come in one message each, those to another subject together.
    subject = client.new_inbox() if chance.random() < 1 / 2 else f"refold.reply.{name}"
    arrived = asyncio.Event()

    def take(_: bytes, __: bytes, ___: bytes, body: bytes) -> None:
        received.take_outcomes(body)
        arrived.set()

    client.subscribe(subject, take)
    headers = f"Refold-Reply: {subject}\r\n".encode()
    for number in count(step=TOGETHER_MAX):
        together = range(number, number + chance.randint(1, TOGETHER_MAX))
        events = [(chance.choice(documents), event_of(name, each, chance)) for each in together]
        if chance.random() < 1 / 4:
            events.append(events[0])
        publishing = (_publish(client, namespace, received, headers, *event) for event in events)
        sequences = {sequence for sequence in await asyncio.gather(*publishing) if sequence is not None}
        with suppress(TimeoutError):
            async with asyncio.timeout(OUTCOME_SECONDS):
                while not sequences <= received.outcomes.keys():
                    arrived.clear()
                    await arrived.wait()
        received.sent.counts["outcomes late or lost"] += len(sequences - received.outcomes.keys())
        await asyncio.sleep(chance.uniform(0, pause_seconds))


def event_of(name: str, number: int, chance: random.Random) -> dict[str, Any]:
    """Return an event; one of four is rejected."""
    event: dict[str, Any] = {"id": f"{name}-{number}", "actor": name}
    if chance.random() < 1 / 4:
        return {**event, "patch": [{"op": "test", "path": "/count", "value": -1}]}
    return {**event, "merge": {"authors": {name: number}}}


async def _publish(
    client: Client, namespace: str, received: Received, headers: bytes, document: str, event: dict[str, Any]
) -> int | None:
    """Publish an event; return its sequence."""
    try:
        answer = await client.request(f"state.{namespace}.{document}", orjson.dumps(event), headers=headers)
    except LogUnavailable as error:
        received.sent.violate("refused", f"event {event['id']}: {error}")
        return None
    sequence = int(orjson.loads(answer.payload)["seq"])
    received.appended[sequence] = document, event["id"]
    return sequence
