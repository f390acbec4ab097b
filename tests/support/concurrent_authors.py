"""Authors who change the same documents at the same time: by nats-py, by a bare socket, by HTTP, and from Node.

Each has replicas of the documents, which it brings up to date by the changes alone, and writes by what they have.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import httpx
import nats

from refold.core import json_text
from support import node
from support.authors import apply_alone

SECONDS = 60.0

Outcomes = list[dict[str, Any]]


class Replica:
    """A document as its changes make it."""

    def __init__(self) -> None:
        self.version = 0
        self.state: Any = None
        self._later: dict[int, Any] = {}

    def take(self, change: Mapping[str, Any]) -> None:
        """Apply changes in the order of their versions."""
        self._later[change["version"]] = change["patch"]
        while self.version + 1 in self._later:
            for operation in self._later.pop(self.version + 1):
                self.state = apply_alone(self.state, operation)
            self.version += 1


class Replicas(dict[str, Replica]):
    """The replicas of one author."""

    def __init__(self, documents: tuple[str, ...]) -> None:
        super().__init__((document, Replica()) for document in documents)

    def take(self, body: bytes) -> None:
        """Take a message on a subject of changes; the broker may send an acknowledgement there."""
        change = json.loads(body)
        if "patch" in change:
            self[change["document"]].take(change)

    def heads(self) -> dict[str, list[Any]]:
        """Return version and state of each, in canonical text."""
        return {name: [it.version, json_text.dumps(it.state).decode()] for name, it in self.items()}

    def have(self, versions: Mapping[str, int]) -> bool:
        """Tell whether all have reached their version."""
        return all(self[document].version >= version for document, version in versions.items())

    def events(self, name: str, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield events, each for what a replica has when it is asked for."""
        random = Random(name)
        for number in range(count):
            document = random.choice([*self])
            yield document, _event(random, self[document], name, f"{name}-{number}")


def _event(random: Random, replica: Replica, name: str, value: str) -> dict[str, Any]:
    state = replica.state
    index, position = random.randrange(max(1, len(state["l"]))), random.randint(0, len(state["t"]))
    patches: list[Any] = [
        [{"op": "inc", "path": "/n", "inc": 1}],
        [{"op": "add", "path": f"/l/{index}", "value": value}],
        [{"op": "replace", "path": f"/l/{index}", "value": value}, {"op": "inc", "path": "/n", "inc": 1}],
        [
            {"op": "move", "from": f"/l/{index}", "path": "/l/-"},
            {"op": "add", "path": f"/o/{name}", "value": value},
        ],
        [{"op": "remove", "path": f"/l/{index}"}, {"op": "add", "path": "/l/0", "value": value}],
        [{"op": "str_ins", "path": "/t", "pos": position, "str": "é𝄞"}],
        [{"op": "str_del", "path": "/t", "pos": position, "len": 1}],
        [{"op": "replace", "path": "/o", "value": {**state["o"], "shared": value}}],
    ]
    strategy = random.choice(["last_write_wins", "first_write_wins", "merge", "reject"])
    return {
        "patch": random.choice(patches),
        "base": replica.version,
        "session": name,
        "on_conflict": strategy,
    }


class NatsPyAuthor:
    """Writes and follows by nats-py."""

    def __init__(self, url: str, namespace: str, documents: tuple[str, ...]) -> None:
        self._url, self._namespace = url, namespace
        self.replicas = Replicas(documents)
        self._outcomes: Outcomes = []
        self._arrived = asyncio.Condition()

    async def connect(self) -> None:
        """Connect, and follow all documents."""
        self._client = await nats.connect(self._url)
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"change.{self._namespace}.*", cb=self._take_change)
        await self._client.subscribe(self._inbox, cb=self._take_outcome)
        await self._client.flush()

    async def _take_change(self, message: Any) -> None:
        async with self._arrived:
            self.replicas.take(message.data)
            self._arrived.notify_all()

    async def _take_outcome(self, message: Any) -> None:
        async with self._arrived:
            self._outcomes.append(json.loads(message.data))
            self._arrived.notify_all()

    async def write(self, name: str, count: int) -> Outcomes:
        """Publish events, some in flight together; return their outcomes."""
        await self.follow(dict.fromkeys(self.replicas, 1))
        for number, (document, event) in enumerate(self.replicas.events(name, count), 1):
            subject, headers = f"state.{self._namespace}.{document}", {"Refold-Reply": self._inbox}
            await self._client.publish(subject, json.dumps(event).encode(), headers=headers)
            if number % 3 == 0 or number == count:
                async with asyncio.timeout(SECONDS), self._arrived:
                    await self._arrived.wait_for(lambda number=number: len(self._outcomes) >= number)
        return self._outcomes

    async def follow(self, versions: Mapping[str, int]) -> None:
        """Wait until the replicas have these versions."""
        async with asyncio.timeout(SECONDS), self._arrived:
            await self._arrived.wait_for(lambda: self.replicas.have(versions))

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()


class SocketAuthor:
    """Writes and follows by a socket, without a client library. Its methods block."""

    def __init__(self, url: str, namespace: str, documents: tuple[str, ...]) -> None:
        server = urlsplit(url)
        self._namespace = namespace
        self.replicas = Replicas(documents)
        self._outcomes: Outcomes = []
        self._connection = socket.create_connection((server.hostname, server.port), timeout=SECONDS)
        self._said = self._connection.makefile("rb")
        self._connection.sendall(
            b'CONNECT {"verbose": false, "headers": true}\r\n'
            b"SUB change.%b.* 1\r\nSUB _INBOX.%b 2\r\nPING\r\n" % (namespace.encode(), namespace.encode())
        )
        while self._next() != b"PONG":
            pass

    def _next(self) -> bytes:
        """Read what the broker says next, and return its name."""
        line = self._said.readline().split()
        if line[0] == b"PING":
            self._connection.sendall(b"PONG\r\n")
        elif line[0] in {b"MSG", b"HMSG"}:
            body = self._said.read(int(line[-1]) + 2)[int(line[-2]) if line[0] == b"HMSG" else 0 :]
            if line[2] == b"1":
                self.replicas.take(body)
            else:
                self._outcomes.append(json.loads(body))
        return line[0]

    def write(self, name: str, count: int) -> Outcomes:
        """Publish events, some in flight together; return their outcomes."""
        self.follow(dict.fromkeys(self.replicas, 1))
        headers = f"NATS/1.0\r\nRefold-Reply: _INBOX.{self._namespace}\r\n\r\n".encode()
        for number, (document, event) in enumerate(self.replicas.events(name, count), 1):
            body = json.dumps(event).encode()
            sizes = f"{len(headers)} {len(headers) + len(body)}"
            command = f"HPUB state.{self._namespace}.{document} {sizes}\r\n".encode()
            self._connection.sendall(command + headers + body + b"\r\n")
            while (number % 3 == 0 or number == count) and len(self._outcomes) < number:
                self._next()
        return self._outcomes

    def follow(self, versions: Mapping[str, int]) -> None:
        """Wait until the replicas have these versions."""
        while not self.replicas.have(versions):
            self._next()

    def close(self) -> None:
        """Disconnect."""
        self._said.close()
        self._connection.close()


class HttpAuthor:
    """Writes by HTTP, and follows by histories. Its methods block."""

    def __init__(self, url: str, namespace: str, documents: tuple[str, ...]) -> None:
        self._client = httpx.Client(base_url=f"{url}/v1/{namespace}", trust_env=False, timeout=SECONDS)
        self.replicas = Replicas(documents)

    def begin(self, state: Any) -> None:
        """Put the first state of all documents."""
        for document in self.replicas:
            assert self._client.put(f"/{document}", json=state).status_code == 201

    def states(self, sequence: int) -> dict[str, str]:
        """Return the service's states, after an event of the log, as they are sent."""
        headers = {"Refold-Min-Sequence": str(sequence)}
        return {
            document: self._client.get(f"/{document}", headers=headers).text for document in self.replicas
        }

    def write(self, name: str, count: int) -> Outcomes:
        """Send events; return the outcomes of those that were accepted."""
        self.follow(dict.fromkeys(self.replicas, 1))
        outcomes: Outcomes = []
        for number, (document, event) in enumerate(self.replicas.events(name, count), 1):
            said = {"Base": str(event["base"]), "Session": name, "On-Conflict": event["on_conflict"]}
            headers = {f"Refold-{field}": value for field, value in said.items()}
            headers["Content-Type"] = "application/json-patch+json"
            answer = self._client.patch(f"/{document}", content=json.dumps(event["patch"]), headers=headers)
            assert answer.status_code in {200, 409, 422}, answer.text
            outcomes += [answer.json()] if answer.status_code == 200 else []
            if number % 3 == 0:
                self._read()
        return outcomes

    def follow(self, versions: Mapping[str, int]) -> None:
        """Read histories until the replicas have these versions."""
        until = time.monotonic() + SECONDS
        while not self.replicas.have(versions):
            assert time.monotonic() < until
            self._read()

    def _read(self) -> None:
        for document, replica in self.replicas.items():
            answer = self._client.get(f"/{document}/history", params={"after": replica.version})
            for change in answer.json().get("items", []):
                replica.take(change)

    def close(self) -> None:
        """Disconnect."""
        self._client.close()


class NodeAuthor:
    """Writes and follows from Node, in a process of its own."""

    def __init__(self, url: str, namespace: str, documents: tuple[str, ...], package: Path) -> None:
        """`package` is a folder with what the program depends on."""
        program = package / "concurrent_author.mjs"
        program.write_bytes(Path(__file__).with_name(program.name).read_bytes())
        fold = node.FOREIGN_FOLD.as_uri()
        self._command = [node.program("node"), str(program), url, fold, namespace]
        self._documents = documents

    async def connect(self, name: str, count: int) -> None:
        """Start the process, and wait until it follows all documents."""
        pipe = asyncio.subprocess.PIPE
        command = [*self._command, name, str(count), *self._documents]
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=2**24)
        assert await self._line() == b"ready\n"

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            return await self._process.stdout.readline()

    async def write(self) -> Outcomes:
        """Return the outcomes when all have come."""
        outcomes: Outcomes = json.loads(await self._line())
        return outcomes

    async def follow(self, versions: Mapping[str, int]) -> dict[str, list[Any]]:
        """Return version and state of each document, in canonical text, when they have these versions."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(versions).encode() + b"\n")
        found: dict[str, list[Any]] = json.loads(await self._line())
        await self._process.wait()
        return found
