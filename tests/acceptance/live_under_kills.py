"""Kills gateway, NATS, projector and PostgreSQL in turn under subscribers, while their documents are written.

A command of its own: `PYTHONPATH=tests python tests/acceptance/live_under_kills.py [--rounds N] [--seed N]`. Holds:

- A subscriber with `merge=false` gets each version exactly once, in order, over all of its connections: it returns with
  `Last-Event-ID` and gets no snapshot again.
- One that is merged gets each version once, or a newer snapshot.
- After each kill all are up to date again within a bound; at the end each has the state that the gateway serves.

It also counts the statements that a gateway sends to PostgreSQL until all are up to date.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import urlsplit

import orjson

from refold.core.errors import LogUnavailable
from refold.log import Appended, Publication
from refold.log.jetstream import JetStreamLog
from refold.telemetry.logging import configure
from refold.wiring.servers import running_servers
from support.followers import Follower, Found, compare_followers
from support.kept import Kept, keeping
from support.killable import KillableServers
from support.proxy import Proxy
from support.services import Site, folded_to, log_of, make_site, store_of
from support.subscribers import Subscribers, reading
from support.system import free_port

NAMESPACE = "live"
MEMBERS = 5
UP_TO_DATE_SECONDS = 1.0
"""A subscriber is up to date that has all that was appended this long ago."""
BOUND_SECONDS = 30.0
"""After a kill, all are up to date within this: they return after one to five seconds, servers start meanwhile."""
LOOK_SECONDS = 0.05
TARGETS = ("gateway", "nats", "projector", "postgres")


class CountingProxy(Proxy):
    """In front of PostgreSQL: counts the statements that are executed."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.statements = 0
        self._partial: dict[object, bytes] = {}

    def _request(self, sink: object, data: bytes) -> None:
        super()._request(sink, data)  # type: ignore[arg-type]  # It is a socket.
        data, at = self._partial.pop(sink, b"") + data, 0
        while len(data) >= at + 5:
            # Only what opens a connection has no type before its length, whose first byte is zero.
            has_type = data[at] != 0
            size = int.from_bytes(data[at + has_type : at + has_type + 4]) + has_type
            if len(data) < at + size:
                break
            self.statements += data[at : at + 1] in {b"E", b"Q"}
            at += size
        self._partial[sink] = data[at:]


@dataclass(slots=True)
class Written:
    """When which version of each document was appended; each document has one writer."""

    versions: dict[str, list[float]] = field(default_factory=dict)
    in_doubt: int = 0

    def version_before(self, document: str, at: float) -> int:
        """Return the newest version that was appended before an instant."""
        times = self.versions[document]
        return next((number for number in range(len(times), 0, -1) if times[number - 1] <= at), 0)


@dataclass(slots=True, kw_only=True)
class Killing:
    """What can be killed, and what was seen after each kill."""

    services: list[Kept]
    servers: KillableServers
    proxy: CountingProxy
    followers: list[Follower]
    subscribers: Subscribers
    written: Written
    found: Found
    chance: random.Random

    async def kill(self, target: str) -> None:
        """Kill a server or one of the services of a name, and start it again."""
        if target in {"nats", "postgres"}:
            await self.servers.kill(target)
        else:
            await self.chance.choice([it for it in self.services if it.service == target]).kill()

    async def up_to_date(self, since: float, what: str) -> float:
        """Wait until all are connected and have what was appended after an instant; return the seconds."""
        deadline = since + BOUND_SECONDS
        while not self._is_up_to_date(since):
            if time.monotonic() > deadline:
                behind = [it for it in self.followers if not self._has_all(it, time.monotonic())]
                self.found.violate(f"{what}: {len(behind)} not up to date after {BOUND_SECONDS} s")
                break
            await asyncio.sleep(LOOK_SECONDS)
        return time.monotonic() - since

    def _is_up_to_date(self, since: float) -> bool:
        now = time.monotonic()
        is_written = all(times and times[-1] > since for times in self.written.versions.values())
        if not (is_written and self.subscribers.is_begun):
            return False
        newest = {
            document: max(
                self.written.version_before(document, now - UP_TO_DATE_SECONDS),
                self.written.version_before(document, since) + 1,
            )
            for document in self.written.versions
        }
        return all((it.version or 0) >= newest[it.document] for it in self.followers)

    def _has_all(self, follower: Follower, now: float) -> bool:
        wanted = self.written.version_before(follower.document, now - UP_TO_DATE_SECONDS)
        return (follower.version or 0) >= wanted


async def run(given: argparse.Namespace, folder: Path) -> Found:
    """Run everything, and return what was found."""
    found, written = Found(), Written()
    async with running_servers(folder / "data", durability="os") as servers:
        proxy = CountingProxy("127.0.0.1", urlsplit(servers.postgres.dsn).port or 0)
        killable = KillableServers(servers)
        try:
            site = await make_site(servers.nats, servers.postgres.dsn)
            port = free_port()
            services = services_of(site, port, proxy, given, folder)
            documents = [f"d{number}" for number in range(given.documents)]
            followers = [
                Follower(
                    number,
                    NAMESPACE,
                    documents[number % given.documents],
                    found,
                    is_merged=number // given.documents % given.merged_each == 0,
                )
                for number in range(given.subscribers)
            ]
            subscribers = Subscribers(("127.0.0.1", port), followers)
            killing = Killing(
                services=services,
                servers=killable,
                proxy=proxy,
                followers=followers,
                subscribers=subscribers,
                written=written,
                found=found,
                chance=random.Random(given.seed),
            )
            async with keeping(services), log_of(site) as log, reading(subscribers):
                async with writing(log, documents, written, given.rate):
                    await kill_in_turn(killing, given)
                last_sequence = (await log.info()).last_sequence
                async with store_of(site) as store:
                    await folded_to(store, last_sequence)
                await compare_followers(f"http://127.0.0.1:{port}", NAMESPACE, followers, found)
            for service in services:
                for code, seconds in service.exits[:1]:
                    found.counts[f"{service.name} ended by itself: {code} after {seconds:.0f} s"] += 1
        finally:
            await killable.stop()
            proxy.close()
    return found


def services_of(
    site: Site, port: int, proxy: CountingProxy, given: argparse.Namespace, folder: Path
) -> list[Kept]:
    """Return the projectors and the gateway, whose statements are counted."""
    parts = urlsplit(site.dsn)
    counted = site.dsn.replace(f":{parts.port}/", f":{proxy.port}/")
    gateway = {**site.gateway_environment(port), "REFOLD_POSTGRES_URL": counted}
    environments = {f"projector-{number}": site.environment() for number in range(given.projectors)}
    return [
        Kept(
            name=name,
            service=name.partition("-")[0],
            environment=environment,
            log=folder / f"{name}.log",
        )
        for name, environment in {**environments, "gateway": gateway}.items()
    ]


@asynccontextmanager
async def writing(
    log: JetStreamLog, documents: list[str], written: Written, rate: float
) -> AsyncIterator[None]:
    """Append events, `rate` a second to all documents together, as long as the block runs."""
    for document in documents:
        written.versions[document] = []

    async def write(document: str, place: int) -> None:
        pause_seconds = len(documents) / rate
        await asyncio.sleep(pause_seconds * place / len(documents))
        number = 0
        while True:
            number += 1
            # Each one has an effect: it adds, changes or removes a member.
            value = None if number % (2 * MEMBERS) > MEMBERS else number
            body = orjson.dumps({"merge": {f"m{number % MEMBERS}": value, "n": number}, "id": f"w{number}"})
            await append(Publication(namespace=NAMESPACE, document=document, body=body), written)
            await asyncio.sleep(pause_seconds)

    async def append(publication: Publication, written: Written) -> None:
        try:
            answer = await log.append(publication)
        except LogUnavailable:
            return
        if isinstance(answer, Appended):
            written.versions[publication.document].append(time.monotonic())
        else:
            written.in_doubt += 1

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(write(document, place)) for place, document in enumerate(documents)]
        yield
        for task in running:
            task.cancel()


async def kill_in_turn(killing: Killing, given: argparse.Namespace) -> None:
    """Kill each target in turn; wait after each until all are up to date."""
    started_at = time.monotonic()
    seconds = await killing.up_to_date(started_at, "start")
    print(f"{given.subscribers:,} subscribers up to date after {seconds:.1f} s", flush=True)
    for number in range(given.rounds):
        for target in given.targets:
            await asyncio.sleep(killing.chance.uniform(0.5, 1.5))
            ended, statements, since = killing.subscribers.ended, killing.proxy.statements, time.monotonic()
            await killing.kill(target)
            seconds = await killing.up_to_date(since, f"{target} {number}")
            print(
                f"{target} killed: all up to date after {seconds:.1f} s; "
                f"{killing.subscribers.ended - ended:,} connections ended, "
                f"{killing.proxy.statements - statements:,} statements",
                flush=True,
            )


def main() -> int:
    """Read the arguments, do it, print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subscribers", type=int, default=1_000)
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--merged-each", type=int, default=4, help="one subscriber of so many is merged")
    parser.add_argument("--rate", type=float, default=50.0, help="events a second, to all documents together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--projectors", type=int, default=1)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS, help="what is killed")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    print(f"{given.subscribers:,} subscribers, {given.documents} documents, seed {given.seed}", flush=True)
    configure("error", service="kill")
    folder = Path(mkdtemp(prefix="refold-live-kill-"))
    found = asyncio.run(run(given, folder))
    for name, number in sorted(found.counts.items()):
        print(f"{name}: {number:,}")
    for violation in found.violations:
        print(f"VIOLATED  {violation}")
    print(f"{found.counts['violations']:,} violations; logs in {folder}")
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
