"""Transfers between accounts while gateways, the projector, NATS and PostgreSQL are killed: no sum ever differs.

A command of its own: `PYTHONPATH=tests python tests/acceptance/transfers.py [--kills N] [--seed N]`. Holds:

- The sum of all accounts is the same in each answer: live, at any time, and, afterwards too, as of each sequence.
- A transaction that was acknowledged is in the history of each of its accounts, one that was refused in none, and any
  other in all or none; its members are next to each other.
- After each kill a transaction is answered within a bound; at the end `refold verify` finds no difference.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from kill_under_load import complete, services_of, verify

from refold.client import Conflict, Refold, RefoldError, Rejected
from refold.core.timestamp import format_time, parse_rfc3339
from refold.telemetry.logging import configure
from refold.wiring.servers import running_servers
from support.kept import Kept, keeping
from support.killable import KillableServers
from support.sent import Sent
from support.services import make_site
from support.system import free_port

NAMESPACE = "bank"
GATEWAYS = 2
BALANCE = 1_000
READERS = 4
NOISE_SECONDS = 0.02
RETRY_SECONDS = 60.0
RECOVERY_SECONDS = 30.0
"""After a kill, a transaction must be answered by each gateway within this."""
BETWEEN_SECONDS = (0.3, 1.5)
LOOK_SECONDS = 0.05
START_SECONDS = 5.0
"""A service that starts while a server is down ends within this; its supervisor starts it again."""
READS_AT_ONCE = 8
TARGETS = ("projector", "gateway", "nats", "postgres")


@dataclass(slots=True, kw_only=True)
class Bank:
    """What was sent, and what became of it. `sent` has the accounts of each transaction by its id."""

    urls: list[str]
    accounts: int
    found: Sent
    sent: dict[str, list[str]] = field(default_factory=dict)
    sequences: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    times: list[str] = field(default_factory=list)
    first_sequence: int = 0
    last_sequence: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    recovery_seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def names(self) -> list[str]:
        return [f"account-{number:03}" for number in range(self.accounts)]

    def client(self, number: int) -> Refold:
        """Return a client of one of the gateways."""
        return Refold(self.urls[number % len(self.urls)], retry_seconds=RETRY_SECONDS)

    def check(self, states: dict[str, int], where: str) -> None:
        """Compare the sum of what was read with what it always is."""
        self.counts[where.partition(" ")[0]] += 1
        total = sum(states.values())
        if len(states) != self.accounts or total != BALANCE * self.accounts:
            self.found.violate("sum", f"{where}: {total} in {len(states)} accounts")


async def transfer(bank: Bank, client: Refold, chance: random.Random, transaction_id: str) -> None:
    """Move an amount from one account to up to three others, at the versions that are read first."""
    names = chance.sample(bank.names, chance.randint(2, 4))
    read = [await client.get(NAMESPACE, name) for name in names]
    amount = chance.randint(1, 20)
    amounts = [-amount * (len(names) - 1), *[amount] * (len(names) - 1)]
    changes = [
        {
            "doc": name,
            "version": each.version,
            "patch": [
                {"op": "inc", "path": "/balance", "inc": by},
                {"op": "add", "path": "/by", "value": transaction_id},
            ],
        }
        for name, each, by in zip(names, read, amounts, strict=True)
    ]
    bank.sent[transaction_id] = names
    try:
        done = await client.transact(NAMESPACE, changes, transaction_id=transaction_id)
    except Conflict:
        bank.refused.add(transaction_id)
        bank.counts["conflicts"] += 1
        return
    bank.counts[done.status] += 1
    bank.sequences[transaction_id] = done.first_sequence, done.last_sequence
    bank.last_sequence = max(bank.last_sequence, done.last_sequence)
    if done.outcomes and done.outcomes[0].recorded_at:
        bank.times.append(done.outcomes[0].recorded_at)


async def transfer_forever(bank: Bank, number: int, chance: random.Random) -> None:
    """Transfer until cancelled; what a kill fails is tried again as another transaction."""
    async with bank.client(number) as client:
        serial = 0
        while True:
            serial += 1
            try:
                await transfer(bank, client, chance, f"w{number}-{serial}")
            except Rejected as error:
                bank.found.violate("rejected", str(error))
            except RefoldError:
                bank.counts["failed"] += 1
                await asyncio.sleep(LOOK_SECONDS)


async def disturb_forever(bank: Bank, chance: random.Random) -> None:
    """Write other events to the accounts: changes that do not touch the balance, and some that are rejected."""
    async with bank.client(0) as client:
        while True:
            await asyncio.sleep(NOISE_SECONDS)
            name = chance.choice(bank.names)
            with suppress(RefoldError):
                if chance.random() < 0.5:
                    await client.merge(NAMESPACE, name, {"note": chance.randrange(100)})
                else:
                    await client.patch(NAMESPACE, name, [{"op": "remove", "path": "/nothing"}])


async def balances(client: Refold, **query: object) -> dict[str, int]:
    """Read all accounts in one answer."""
    listed = client.list(NAMESPACE, **query)  # type: ignore[arg-type]
    return {each.id: each.state["balance"] async for each in listed}


async def read_forever(bank: Bank, number: int, chance: random.Random) -> None:
    """Read all accounts live, as of a sequence or at a time, until cancelled."""
    async with bank.client(number) as client:
        while True:
            await asyncio.sleep(0)
            with suppress(RefoldError):
                if number % 3 == 0 or not bank.times:
                    bank.check(await balances(client), "live list")
                elif number % 3 == 1:
                    sequence = max(bank.first_sequence, bank.last_sequence - chance.randrange(200))
                    bank.check(await balances(client, sequence=sequence), f"sequence {sequence}")
                else:
                    near = parse_rfc3339(chance.choice(bank.times[-200:])) + chance.randrange(-20_000, 20_000)
                    bank.check(await balances(client, at=format_time(near)), f"time {near}")


@asynccontextmanager
async def load(bank: Bank, given: argparse.Namespace) -> AsyncIterator[None]:
    """Transfer, disturb and read for as long as the block runs."""
    async with asyncio.TaskGroup() as tasks:
        work = [
            transfer_forever(bank, number, random.Random(f"{given.seed} writer {number}"))
            for number in range(given.writers)
        ]
        work += [
            read_forever(bank, number, random.Random(f"{given.seed} reader {number}"))
            for number in range(READERS)
        ]
        work.append(disturb_forever(bank, random.Random(f"{given.seed} noise")))
        running = [tasks.create_task(each) for each in work]
        yield
        for task in running:
            task.cancel()


async def kill_repeatedly(
    bank: Bank, services: list[Kept], servers: KillableServers, given: argparse.Namespace
) -> None:
    """Kill at random moments; after each, wait until both gateways answer a transaction."""
    chance = random.Random(f"{given.seed} kills")
    for number in range(1, given.kills + 1):
        await asyncio.sleep(chance.uniform(*BETWEEN_SECONDS))
        target = chance.choice(given.targets)
        if target in {"nats", "postgres"}:
            await servers.kill(target)
        else:
            await chance.choice([it for it in services if it.service == target]).kill()
        seconds = await recovered(bank, f"{target} {number}")
        bank.recovery_seconds[target].append(seconds)
        print(f"{number:4} {target}: {seconds:.1f} s; {dict(bank.counts)}", flush=True)


async def recovered(bank: Bank, what: str) -> float:
    """Wait until a transaction succeeds at every gateway; return the seconds. What hangs is a violation."""
    started_at = time.monotonic()

    async def answers(number: int) -> None:
        changes = [{"doc": f"{what} {number} {at}", "version": 0, "put": 1} for at in range(2)]
        async with Refold(bank.urls[number], retry_seconds=0, timeout_seconds=5) as client:
            while True:
                with suppress(RefoldError):
                    done = await client.transact("probe", changes, transaction_id=what)
                    if done.status != "pending":
                        return
                await asyncio.sleep(LOOK_SECONDS)

    try:
        await asyncio.wait_for(asyncio.gather(*map(answers, range(GATEWAYS))), RECOVERY_SECONDS)
    except TimeoutError:
        bank.found.violate("hung", f"after {what}, no answer within {RECOVERY_SECONDS:.0f} s")
    return time.monotonic() - started_at


async def compare(bank: Bank, last_sequence: int, reads: int) -> None:
    """Read all accounts as of the last sequences, or of every one, and each account's history."""
    chosen = range(bank.first_sequence, last_sequence + 1)
    sequences = iter(chosen[-reads:] if reads else chosen)

    async def read(number: int) -> None:
        async with bank.client(number) as client:
            for sequence in sequences:
                bank.check(await balances(client, sequence=sequence), f"afterwards {sequence}")

    await asyncio.gather(*map(read, range(READS_AT_ONCE)))
    members: dict[str, dict[str, int]] = defaultdict(dict)
    async with bank.client(0) as client:
        for name in bank.names:
            async for change in client.history(NAMESPACE, name):
                if change.id in bank.sent:
                    members[change.id][name] = change.sequence
    for transaction_id, names in bank.sent.items():
        found = members.get(transaction_id, {})
        is_expected = transaction_id in bank.sequences
        if transaction_id in bank.refused and found:
            bank.found.violate("refused", f"{transaction_id} is in {found}")
        if (found or is_expected) and found.keys() != set(names):
            bank.found.violate("part", f"{transaction_id} of {names} is in {found}")
        if found:
            first = min(found.values())
            expected = {name: first + at for at, name in enumerate(names)}
            first_and_last = bank.sequences.get(transaction_id, (first, first + len(names) - 1))
            if found != expected or first_and_last != (first, first + len(names) - 1):
                bank.found.violate("order", f"{transaction_id}: {found}, acknowledged {first_and_last}")
    bank.counts["transactions in the log"] = len(members)


async def run(given: argparse.Namespace, folder: Path) -> Bank:
    """Run everything, and return what was found."""
    async with running_servers(folder / "data") as servers, AsyncExitStack() as endings:
        killable = KillableServers(servers)
        endings.push_async_callback(killable.stop)
        site = await make_site(servers.nats, servers.postgres.dsn)
        ports = [free_port() for _ in range(GATEWAYS)]
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        bank = Bank(urls=urls, accounts=given.accounts, found=Sent(gateways=GATEWAYS))
        services = services_of(site, ports, given.projectors, folder, bank.found)
        async with keeping(services):
            await recovered(bank, "start")
            async with bank.client(0) as client:
                opened = [{"doc": name, "version": 0, "put": {"balance": BALANCE}} for name in bank.names]
                bank.first_sequence = (await client.transact(NAMESPACE, opened)).last_sequence
            async with load(bank, given):
                await kill_repeatedly(bank, services, killable, given)
            await complete(site, bank.found)
            started_at = time.monotonic()
            await compare(bank, bank.found.counts["events"], given.reads)
            print(f"compared in {time.monotonic() - started_at:.0f} s")
        ended = [f"{it.name}: {exit_}" for it in services for exit_ in it.exits if exit_[1] > START_SECONDS]
        if ended:
            print(f"services that ended by themselves, and were started again: {ended}")
        await verify(site, bank.found)
    return bank


def main() -> int:
    """Read the arguments, do it, print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--writers", type=int, default=32)
    parser.add_argument("--accounts", type=int, default=100)
    parser.add_argument(
        "--reads",
        type=int,
        default=0,
        help="as of how many of the last sequences to read afterwards; 0: every one",
    )
    parser.add_argument("--projectors", type=int, default=1)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS, help="what is killed")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    print(
        f"{given.kills} kills under {given.writers} writers to {given.accounts} accounts, seed {given.seed}"
    )
    configure("error", service="transfers")
    folder = Path(mkdtemp(prefix="refold-transfers-"))
    bank = asyncio.run(run(given, folder))
    for target, seconds in sorted(bank.recovery_seconds.items()):
        print(f"{target}: {len(seconds)} times, answered again after at most {max(seconds):.1f} s")
    for name, number in sorted(bank.counts.items()):
        print(f"{name}: {number:,}")
    print(f"{len(bank.found.violations):,} violations; logs in {folder}")
    return 1 if bank.found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
