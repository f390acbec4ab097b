"""NATS JetStream by itself, through nats-py: a subject a document, the expected version by a header of the publish."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import nats
from nats.js.api import AckPolicy, ConsumerConfig
from work import Change, arguments, fold, run

STREAM = "BENCH"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
PAGE = 1_000
END = "204"


class RawNats:
    """One connection for all writers."""

    def __init__(self, client: nats.NATS) -> None:
        """Use a connection, on which `begin` makes the stream."""
        self._client = client
        self._js = client.jetstream()
        self._heads: dict[str, int] = {}

    async def begin(self) -> None:
        """Create the stream; nats-py's own configuration does not support atomic batches."""
        given = {"subjects": ["doc.*"], "storage": "file", "allow_direct": True, "allow_atomic": True}
        body = json.dumps({"name": STREAM, **given}).encode()
        answer = json.loads((await self._client.request(f"$JS.API.STREAM.CREATE.{STREAM}", body)).data)
        assert "error" not in answer, answer
        self._inbox = self._client.new_inbox()
        self._answers = await self._client.subscribe(self._inbox)

    async def append(self, document: str, _: int, changes: list[Change]) -> None:
        """Publish one by itself, many as an atomic batch."""
        subject = f"doc.{document}"
        headers = {EXPECTED: str(self._heads.get(document, 0))}
        if len(changes) == 1:
            acknowledged = await self._js.publish(subject, json.dumps(changes[0]).encode(), headers=headers)
            self._heads[document] = acknowledged.seq
            return
        batch = {"Nats-Batch-Id": uuid4().hex}
        for at, each in enumerate(changes[:-1], 1):
            named = batch | {"Nats-Batch-Sequence": str(at)} | (headers if at == 1 else {})
            await self._client.publish(subject, json.dumps(each).encode(), headers=named)
        named = batch | {"Nats-Batch-Sequence": str(len(changes)), "Nats-Batch-Commit": "1"}
        answer = await self._client.request(subject, json.dumps(changes[-1]).encode(), headers=named)
        reply = json.loads(answer.data)
        assert reply.get("count") == len(changes), reply
        self._heads[document] = reply["seq"]

    async def load(self, document: str, version: int | None) -> dict[str, Any]:
        """Get the subject's messages directly, in one request, and fold them."""
        asked = {"seq": 1, "batch": version or PAGE, "next_by_subj": f"doc.{document}"}
        await self._client.publish(
            f"$JS.API.DIRECT.GET.{STREAM}", json.dumps(asked).encode(), reply=self._inbox
        )
        state: dict[str, Any] = {}
        while True:
            message = await self._answers.next_msg(timeout=10)
            if (message.headers or {}).get("Status") == END:
                return state
            fold(state, json.loads(message.data))

    async def read_all(self, total: int) -> None:
        """Fetch all messages by a pull consumer and fold them in memory."""
        consumer = ConsumerConfig(ack_policy=AckPolicy.NONE)
        pulled = await self._js.pull_subscribe("doc.*", stream=STREAM, config=consumer)
        states: dict[str, dict[str, Any]] = {}
        events = 0
        while events < total:
            for message in await pulled.fetch(PAGE, timeout=10):
                fold(states.setdefault(message.subject[4:], {}), json.loads(message.data))
                events += 1


async def main() -> None:
    """Connect and do the work."""
    work = arguments()
    client = await nats.connect(work.address)
    peer = RawNats(client)
    await peer.begin()
    await run(peer, work)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
