"""Kills projector, gateways and PostgreSQL under strict writers and readers: no read is behind what a client was sent.

A command of its own: `PYTHONPATH=tests python tests/acceptance/kill_under_load.py [--kills N] [--seed N]`. Holds:

- No gateway reads a document behind what it has sent; a restarted one not behind what any client was sent before.
- A client that carries the highest sequence that it was sent reads behind it at no gateway.
- Outcomes and changes may be lost or sent again, but never differ, neither from each other nor from the history.
- An acknowledged write took effect once, a refused one did not, and no increment of a counter is lost.
- After each kill the system answers again within a bound; at the end `refold verify` finds no difference.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import psutil

from refold.client.transport import Transport
from refold.core.errors import RefoldError
from refold.log.jetstream.client import Client, connect
from refold.telemetry.logging import configure
from refold.wiring.servers import running_servers
from support.kept import Kept, keeping
from support.killable import KillableServers
from support.raw_authors import Received, author_forever, subscribe
from support.sent import Sent
from support.sent_history import compare
from support.services import Site, folded_to, log_of, make_site, store_of
from support.strict_clients import Change, Context, HttpClient, SdkClient
from support.strict_load import append_forever, read_forever, write_forever
from support.system import free_port

NAMESPACE = "kill"
PROBES = "probe"
GATEWAYS = 2
DOCUMENTS = 40
LARGE_DOCUMENTS = 2
PAD_BYTES = 200
LARGE_PAD_BYTES = 40_000
"""Larger than the states that a commit always writes."""
CACHE_BYTES = 1024 * 1024
"""The least that a projector takes: it loads documents again and again, from a database that may have lost commits."""
SDK_SHARE = 4
"""One writer of so many is the SDK at one gateway; of the others, every second carries its sequence."""
PAUSE_SECONDS = 0.05
BULK_PAUSE_SECONDS = 0.5
RECOVERY_SECONDS = 30.0
"""After a kill, every gateway must write and read again within this."""
PROBE_SECONDS = 5.0
LOOK_SECONDS = 0.05
START_SECONDS = 5.0
"""A service that starts while PostgreSQL is down ends within this; its supervisor starts it again."""
PENDING_STATUS = 202
BETWEEN_SECONDS = (0.1, 0.8)
SECOND_SHARE = 0.4
"""So many kills are followed by another one at once."""
TARGETS = ("projector", "gateway", "postgres", "backend")


@dataclass(slots=True, kw_only=True)
class Killing:
    """What can be killed, and how long each recovery took, by what was killed."""

    services: list[Kept]
    servers: KillableServers
    sent: Sent
    chance: random.Random
    targets: list[str]
    recovery_seconds: dict[str, list[float]] = field(default_factory=dict)

    async def kill(self) -> str:
        """Kill one of the processes; return what it was, once its restart has begun."""
        target = self.chance.choice(self.targets)
        if target == "postgres":
            self.sent.fault(target)
            await self.servers.kill("postgres")
            return target
        if target == "backend":
            backend = self._backend()
            self.sent.fault(f"{target} {backend.pid if backend else 'none'}")
            if backend is not None:
                with suppress(psutil.NoSuchProcess):
                    backend.kill()
            return target
        service = self.chance.choice([it for it in self.services if it.service == target])
        self.sent.fault(service.name)
        await service.kill()
        return target

    def _backend(self) -> psutil.Process | None:
        """Choose one of PostgreSQL's processes that serve a connection."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.servers.pid("postgres")).children():
                with suppress(psutil.NoSuchProcess):
                    if "127.0.0.1" in " ".join(child.cmdline()):
                        found.append(child)
        return self.chance.choice(found) if found else None


async def run(given: argparse.Namespace, folder: Path) -> Sent:
    """Run everything, and return what was found."""
    sent = Sent(gateways=GATEWAYS)
    received = Received(sent=sent)
    async with running_servers(folder / "data", durability="os") as servers:
        killable = KillableServers(servers)
        try:
            site = await make_site(servers.nats, servers.postgres.dsn)
            ports = [free_port() for _ in range(GATEWAYS)]
            context = Context(
                namespace=NAMESPACE, urls=[f"http://127.0.0.1:{port}" for port in ports], sent=sent
            )
            services = services_of(site, ports, given.projectors, folder, sent)
            killing = Killing(
                services=services,
                servers=killable,
                sent=sent,
                chance=random.Random(f"{given.seed} kills"),
                targets=given.targets,
            )
            async with keeping(services):
                await recovered(context, killing, "start")
                async with author_client(site, received) as author:
                    documents = await made(context, random.Random(f"{given.seed} documents"))
                    async with load(context, author, documents, received, given):
                        await kill_repeatedly(context, killing, given.kills)
                    await complete(site, sent)
                ended = [
                    f"{it.name}: {exit_}" for it in services for exit_ in it.exits if exit_[1] > START_SECONDS
                ]
                sent.expect("services that ended by themselves", found=ended, expected=[])
                await compare(context, received, documents)
                await verify(site, sent)
            report(killing, received)
        finally:
            await killable.stop()
    return sent


def services_of(site: Site, ports: list[int], projectors: int, folder: Path, sent: Sent) -> list[Kept]:
    """Return the projectors and gateways; what was sent before a gateway starts, it must know."""
    services = [
        Kept(
            name=f"projector-{number}",
            service="projector",
            environment={**site.environment(), "REFOLD_CACHE_BYTES_MAX": str(CACHE_BYTES)},
            log=folder / f"projector-{number}.log",
        )
        for number in range(projectors)
    ]
    for number, port in enumerate(ports):
        gateway = Kept(
            name=f"gateway-{number}",
            service="gateway",
            environment=site.gateway_environment(port),
            log=folder / f"gateway-{number}.log",
            before_start=lambda number=number: sent.restarting(number),
        )
        services.append(gateway)
    return services


async def made(context: Context, chance: random.Random) -> dict[str, bool]:
    """Create the documents; return for each whether it is large."""
    documents = {f"d{number:02}": number < LARGE_DOCUMENTS for number in range(DOCUMENTS)}
    client = HttpClient(context, "maker", carries=True, chance=chance)
    for document, is_large in documents.items():
        pad = chance.randbytes((LARGE_PAD_BYTES if is_large else PAD_BYTES) // 2).hex()
        await client.write(
            document, Change("PUT", "application/json", {"count": 0, "pad": pad}), f"make-{document}"
        )
    await client.close()
    return documents


@asynccontextmanager
async def author_client(site: Site, received: Received) -> AsyncIterator[Client]:
    """Connect to NATS as an author, and receive all changes."""
    client = await connect(site.nats.address, name="test-author")
    try:
        subscribe(client, NAMESPACE, received)
        await client.flush()
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def load(
    context: Context,
    author: Client,
    documents: dict[str, bool],
    received: Received,
    given: argparse.Namespace,
) -> AsyncIterator[None]:
    """Write and read with all clients as long as the block runs."""
    async with AsyncExitStack() as stack:
        work: list[Awaitable[None]] = []
        for number in range(given.writers):
            chance = random.Random(f"{given.seed} writer {number}")
            name, is_sdk = f"w{number}", number % SDK_SHARE == 0
            client: HttpClient | SdkClient
            if is_sdk:
                client = SdkClient(context, name, number // SDK_SHARE % GATEWAYS)
            else:
                client = HttpClient(context, name, carries=bool(number % 2), chance=chance)
            stack.push_async_callback(client.close)
            work.append(write_forever(client, documents, chance, PAUSE_SECONDS))
        for number in range(GATEWAYS):
            client = SdkClient(context, f"b{number}", number)
            stack.push_async_callback(client.close)
            work.append(append_forever(client, documents, random.Random(number), BULK_PAUSE_SECONDS))
        for number in range(given.readers):
            chance = random.Random(f"{given.seed} reader {number}")
            reader = HttpClient(context, f"r{number}", carries=bool(number % 2), chance=chance)
            stack.push_async_callback(reader.close)
            work.append(read_forever(reader, documents, chance, received.newest, PAUSE_SECONDS))
        for number in range(given.authors):
            chance = random.Random(f"{given.seed} author {number}")
            name = f"a{number}"
            work.append(
                author_forever(author, NAMESPACE, sorted(documents), name, received, chance, PAUSE_SECONDS)
            )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(each) for each in work]
            yield
            for task in running:
                task.cancel()


async def kill_repeatedly(context: Context, killing: Killing, kills: int) -> None:
    """Kill at random moments; after each, sometimes two, wait until the system answers again."""
    chance, done = killing.chance, 0
    while done < kills:
        await asyncio.sleep(chance.uniform(*BETWEEN_SECONDS))
        killed = [await killing.kill()]
        if chance.random() < SECOND_SHARE:
            await asyncio.sleep(chance.uniform(0, BETWEEN_SECONDS[1]))
            killed.append(await killing.kill())
        done += len(killed)
        name = " + ".join(killed)
        seconds = await recovered(context, killing, name)
        newest = sum(seen.version for seen in context.sent.everywhere.values())
        print(
            f"{context.sent.now:8.1f} s  {done:3} kills, {newest:,} versions; {name}: {seconds:.1f} s",
            flush=True,
        )


async def recovered(context: Context, killing: Killing, killed: str) -> float:
    """Wait until every gateway writes and reads; return the seconds it took. What hangs is a violation."""
    started_at = time.monotonic()
    probing = asyncio.gather(*(answers(context, number) for number in range(GATEWAYS)))
    try:
        await asyncio.wait_for(probing, RECOVERY_SECONDS)
    except TimeoutError:
        logs = "\n".join(f"{it.name}: {line}" for it in killing.services for line in it.tail())
        context.sent.violate("hung", f"after {killed}, no answer within {RECOVERY_SECONDS:.0f} s\n{logs}")
    seconds = time.monotonic() - started_at
    killing.recovery_seconds.setdefault(killed, []).append(seconds)
    return seconds


async def answers(context: Context, gateway: int) -> None:
    """Wait until a gateway writes a document and reads it."""
    transport = Transport(context.urls[gateway], timeout_seconds=PROBE_SECONDS, trace=None)
    path, about = f"/v1/{PROBES}/gateway-{gateway}", {"Content-Type": "application/json"}
    try:
        while True:
            with suppress(RefoldError):
                written = await transport.request("PUT", path, headers=about, body=b"{}")
                if written.status != PENDING_STATUS:
                    await transport.request("GET", path)
                    return
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await transport.close()


async def complete(site: Site, sent: Sent) -> None:
    """Wait until the projection has the whole log."""
    async with log_of(site) as log, store_of(site) as store:
        last_sequence = (await log.info()).last_sequence
        await folded_to(store, last_sequence)
    sent.counts["events"] = last_sequence


async def verify(site: Site, sent: Sent) -> None:
    """Compare the projection with the log by the product's own command."""
    command = (sys.executable, "-m", "refold", "verify", "--json")
    piped = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=site.environment(), stdout=piped, stderr=piped
    )
    printed, errors = await process.communicate()
    sent.expect(f"verify: {printed.decode()} {errors.decode()}", found=process.returncode, expected=0)
    print(f"verify: {printed.decode().strip()[:300]}")


def report(killing: Killing, received: Received) -> None:
    """Print what happened."""
    sent = killing.sent
    for name, seconds in sorted(killing.recovery_seconds.items()):
        ordered = sorted(seconds)
        median, slowest = ordered[len(ordered) // 2], ordered[-1]
        print(f"{name}: {len(seconds)} times, answered again after {median:.1f} s, at most {slowest:.1f} s")
    for name, number in sorted(sent.counts.items()):
        print(f"{name}: {number:,}")
    print(f"reads that carried a sequence: {len(sent.carried):,}; states read: {len(sent.digests):,}")
    changes = sum(len(found) for found in received.changes.values())
    missing = sum(after - before - 1 for _, before, after in received.gaps)
    print(f"changes received: {changes:,}, in {len(received.gaps)} gaps {missing} came late or not at all")
    print(f"outcomes received over NATS: {len(received.outcomes):,}; sent again: {dict(received.again)}")


def main() -> int:
    """Read the arguments, do it, print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--authors", type=int, default=4)
    parser.add_argument("--projectors", type=int, default=1)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS, help="what is killed")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    print(
        f"{given.kills} kills under {given.writers} writers and {given.readers} readers, seed {given.seed}",
        flush=True,
    )
    configure("error", service="kill")
    folder = Path(mkdtemp(prefix="refold-kill-"))
    sent = asyncio.run(run(given, folder))
    print(f"{len(sent.violations):,} violations; logs in {folder}")
    return 1 if sent.violations else 0


if __name__ == "__main__":
    sys.exit(main())
