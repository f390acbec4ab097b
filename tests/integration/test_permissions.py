"""The permissions of each user on real servers: the embedded one and those configured in infra/nats.

`MATRIX` is the specification; infra/nats/README.md shows it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nats
import pytest

from refold.embedded.nats import NATS_USERS, NatsServer, NatsUser, inbox_prefix
from support.delivered import INFRA, Delivered, one_server, three_servers

WAIT_SECONDS = 60
_REFUSED = re.compile(r"Permissions Violation for (Publish|Subscription) to \"(.+)\"")

ALL = ("administrator",)
READS = ("administrator", "projector", "gateway")
FOLDS = ("administrator", "projector")

MATRIX: dict[str, tuple[str, ...]] = {
    "publish state.n.d": ("administrator", "gateway", "author"),
    "publish state._refold.log": ALL,
    "publish log.1.n.d": ALL,
    "publish $JS.API.INFO": READS,
    "publish $JS.API.STREAM.INFO.STATE": READS,
    "publish $JS.API.STREAM.MSG.GET.STATE": READS,
    "publish $JS.API.DIRECT.GET.STATE": READS,
    "publish $JS.API.DIRECT.GET.STATE.log.1.n.d": READS,
    "publish $JS.API.DIRECT.GET.OTHER": ALL,
    "publish $JS.API.STREAM.NAMES": ALL,
    "publish $JS.API.STREAM.CREATE.STATE": ALL,
    "publish $JS.API.STREAM.UPDATE.STATE": ALL,
    "publish $JS.API.STREAM.DELETE.STATE": ALL,
    "publish $JS.API.STREAM.PURGE.STATE": ALL,
    "publish $JS.API.STREAM.MSG.DELETE.STATE": ALL,
    "publish $JS.API.STREAM.SNAPSHOT.STATE": ALL,
    "publish $JS.API.STREAM.RESTORE.STATE": ALL,
    "publish $JS.API.STREAM.LEADER.STEPDOWN.STATE": ALL,
    "publish $JS.API.STREAM.PEER.REMOVE.STATE": ALL,
    "publish $JS.API.CONSUMER.CREATE.STATE": FOLDS,
    "publish $JS.API.CONSUMER.CREATE.STATE.c": FOLDS,
    "publish $JS.API.CONSUMER.DURABLE.CREATE.STATE.c": FOLDS,
    "publish $JS.API.CONSUMER.INFO.STATE.c": FOLDS,
    "publish $JS.API.CONSUMER.MSG.NEXT.STATE.c": FOLDS,
    "publish $JS.API.CONSUMER.DELETE.STATE.c": FOLDS,
    "publish $JS.API.CONSUMER.CREATE.OTHER": ALL,
    "publish $JS.ACK.STATE.c.1.1.1.1.0": FOLDS,
    "publish change.n.d": ("administrator", "reply"),
    "publish conflict.n.d": ("administrator", "reply"),
    "publish refold.progress": ("administrator", "reply"),
    "publish refold.committed": ("administrator", "reply"),
    "publish refold.control.projector": ("administrator", "gateway"),
    "publish refold.control.gateway.status": ("administrator", "gateway"),
    "publish refold.control.commit": ("administrator", "gateway"),
    "publish refold.control.projector.profile": ALL,
    "publish refold.control.gateway.profile": ALL,
    "publish refold.reply.mine": ("administrator", "reply"),
    "publish refold.reply.gateway.1": ("administrator", "reply"),
    "publish _INBOX.1": ("administrator", "reply"),
    "publish _INBOX_administrator.1": FOLDS,
    "publish _INBOX_gateway.1": FOLDS,
    "publish _INBOX_projector.1": ALL,
    "subscribe >": ALL,
    "subscribe state.>": ALL,
    "subscribe log.>": ALL,
    "subscribe $JS.API.>": ALL,
    "subscribe $JS.EVENT.ADVISORY.>": ALL,
    "subscribe change.>": ("administrator", "gateway", "author"),
    "subscribe conflict.>": ("administrator", "author"),
    "subscribe refold.progress": ("administrator", "projector", "gateway"),
    "subscribe refold.committed": ("administrator", "gateway"),
    "subscribe refold.control.projector": FOLDS,
    "subscribe refold.control.commit": FOLDS,
    "subscribe refold.control.projector.profile": FOLDS,
    "subscribe refold.control.gateway.profile": ("administrator", "gateway"),
    "subscribe refold.control.gateway.status": ("administrator", "gateway"),
    "subscribe refold.reply.mine": ("administrator", "author"),
    "subscribe refold.reply.gateway.1": ("administrator", "gateway"),
    "subscribe _INBOX.>": ("administrator", "author"),
    "subscribe _INBOX_administrator.>": ALL,
    "subscribe _INBOX_projector.>": FOLDS,
    "subscribe _INBOX_gateway.>": ("administrator", "gateway"),
}


@pytest.fixture(params=["embedded", "one", "cluster"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NatsServer | Delivered]:
    """A server without a log: requests change nothing."""
    if request.param == "embedded":
        yield request.getfixturevalue("fresh_nats")
    elif request.param == "one":
        with one_server(tmp_path) as started:
            yield started
    else:
        with three_servers(tmp_path) as servers:
            yield servers[1]


async def test_every_user_has_exactly_its_permissions(server: NatsServer | Delivered) -> None:
    refused = {user: await refusals(server.url(user)) for user in NATS_USERS}
    found = {action: tuple(user for user in NATS_USERS if action not in refused[user]) for action in MATRIX}
    assert found == MATRIX


async def test_an_author_receives_its_outcomes_but_not_those_of_gateways(
    server: NatsServer | Delivered,
) -> None:
    author, reply = await connected(server, "author"), await connected(server, "reply")
    received = await author.subscribe("refold.reply.>")
    await author.flush()
    async with asyncio.timeout(WAIT_SECONDS):
        # The other servers of a cluster receive a subscription a little later.
        while not received.pending_msgs:
            for subject in ("refold.reply.gateway.1", "refold.reply.mine"):
                await reply.publish(subject, b"{}")
            await reply.flush()
            await asyncio.sleep(0.05)
    assert (await received.next_msg()).subject == "refold.reply.mine"
    await author.close()
    await reply.close()


async def test_only_the_embedded_server_accepts_anonymous_connections(server: NatsServer | Delivered) -> None:
    place = f"127.0.0.1:{server.port}"
    is_embedded = isinstance(server, NatsServer)
    assert await is_let_in(f"nats://{place}") is is_embedded
    assert not await is_let_in(f"nats://author:wrong@{place}")
    assert not await is_let_in(f"nats://server:pserver@{place}")


def test_the_table_in_the_documentation_is_that_of_the_test() -> None:
    lines = [f"| | {' | '.join(NATS_USERS)} |", f"| --- |{' :-: |' * len(NATS_USERS)}"]
    for action, users in MATRIX.items():
        verb, subject = action.split()
        marks = (" yes " if user in users else "  " for user in NATS_USERS)
        lines.append(f"| {verb} `{subject}` |{'|'.join(marks)}|")
    assert "\n".join(lines) in (INFRA / "nats" / "README.md").read_text()


async def refusals(url: str) -> set[str]:
    """Try every action as one user; return those that the server refused."""
    frames = []
    for number, action in enumerate(MATRIX):
        verb, subject = action.split()
        frames.append(f"PUB {subject} 0\r\n\r\n" if verb == "publish" else f"SUB {subject} {number}\r\n")
    refused = set()
    for line in await answered(url, "".join(frames)):
        found = _REFUSED.search(line)
        assert found, line
        refused.add(f"{'publish' if found[1] == 'Publish' else 'subscribe'} {found[2]}")
    return refused


async def answered(url: str, frames: str) -> list[str]:
    """Send frames on a socket; return the resulting errors."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    who = {"user": parts.username, "pass": parts.password} if parts.username else {}
    greeting = {"verbose": False, "pedantic": False, "headers": True, "echo": False, **who}
    writer.write(f"CONNECT {json.dumps(greeting)}\r\n{frames}PING\r\n".encode())
    errors = []
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            # The server answers in order: errors of the frames arrive first.
            while (line := await reader.readline()) not in {b"PONG\r\n", b""}:
                if line.startswith(b"-ERR"):
                    errors.append(line.decode())
    finally:
        writer.close()
    return errors


async def is_let_in(url: str) -> bool:
    """Return whether the server accepts this user."""
    return not any("Authorization" in line for line in await answered(url, ""))


async def connected(server: NatsServer | Delivered, user: NatsUser) -> nats.NATS:
    """Connect as one of the users."""
    return await nats.connect(server.url(user), inbox_prefix=inbox_prefix(user), allow_reconnect=False)
