"""Transactions: changes of one document, and of several documents, all or none."""

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

from refold.client import Conflict, Refold, Rejected

BANK = "bank"
ACCOUNTS = ("ann", "bob", "eve")
BALANCE = 100
WRITERS, TRANSFERS = 4, 5


async def play(refold: Refold) -> None:
    """Change one document, then several together, then at the same time as others."""
    await change_one_document(refold)
    for name in ACCOUNTS:
        await refold.put(BANK, name, {"balance": BALANCE})
    await transfer_once(refold)
    await refuse_whole(refold)
    await transfer_at_once(refold)


async def change_one_document(refold: Refold) -> None:
    """A patch is one event: all of its operations have an effect, or none has."""
    print("\n▸ One document: a patch is one event")
    await refold.put("shop", "order", {"lines": ["tea"], "total": 4, "paid": False})
    is_open = {"op": "test", "path": "/paid", "value": False}
    ink = [
        {"op": "add", "path": "/lines/-", "value": "ink"},
        {"op": "inc", "path": "/total", "inc": 3},
        is_open,
    ]
    for what, patch in (
        ("add ink", ink),
        ("pay", [{"op": "replace", "path": "/paid", "value": True}]),
        ("add ink", ink),
    ):
        outcome = await refold.patch("shop", "order", patch)
        order = await refold.get("shop", "order")
        print(f"  {what:8} {outcome.status:8} {outcome.reason:11} → version {order.version}: {order.state}")
    assert order.state == {"lines": ["tea", "ink"], "paid": True, "total": 7}


async def transfer_once(refold: Refold) -> None:
    """Change two documents, each at the version at which it was read."""
    print("\n▸ Two documents: a transfer from Ann to Bob")
    done = await refold.transact(BANK, await transfer(refold, "ann", "bob", 30))
    first, last = done.first_sequence, done.last_sequence
    print(f"  {done.status}; its events have the sequences {first} and {last}")
    for sequence in (first - 1, first, last):
        print(f"  read at sequence {sequence}: {await balances(refold, sequence)}")
    assert await balances(refold, first) == await balances(refold, first - 1)


async def refuse_whole(refold: Refold) -> None:
    """A change that is stale, or that the fold would reject, refuses all: nothing is published."""
    print("\n▸ One change is refused: nothing of the transaction is in the log")
    before = (await refold.status())["last_sequence"]
    stale = await transfer(refold, "bob", "eve", 10)
    stale[1]["version"] -= 1
    unfit = await transfer(refold, "bob", "eve", 10)
    unfit[1]["patch"] = [{"op": "inc", "path": "/savings", "inc": 10}]
    for changes in (stale, unfit):
        try:
            await refold.transact(BANK, changes)
        except (Conflict, Rejected) as error:
            print(f"  {error.code}: {error.outcome.detail}")
    assert (await refold.status())["last_sequence"] == before
    print(f"  the log still ends at sequence {before}")


async def transfer_at_once(refold: Refold) -> None:
    """Let several transfer between the same accounts, then read every sequence."""
    print(f"\n▸ {WRITERS} people make {TRANSFERS} transfers each between the same accounts")
    before = (await refold.status())["last_sequence"]
    await asyncio.gather(*(transfer_often(refold, Random(number)) for number in range(WRITERS)))  # noqa: S311
    after = (await refold.status())["last_sequence"]
    read = [await balances(refold, sequence) for sequence in range(before, after + 1)]
    assert {sum(found.values()) for found in read} == {BALANCE * len(ACCOUNTS)}
    changes = sum(found != following for found, following in pairwise(read))
    print(
        f"  {len(read)} sequences read: the sum is {BALANCE * len(ACCOUNTS)} at each; {changes} times something changed"
    )
    assert changes == WRITERS * TRANSFERS


async def transfer_often(refold: Refold, chance: Random) -> None:
    """Transfer some amounts; where another was first, read again and try again."""
    for _ in range(TRANSFERS):
        giver, taker = chance.sample(ACCOUNTS, 2)
        amount = chance.randint(1, 9)
        while not await is_transferred(refold, giver, taker, amount):
            pass


async def is_transferred(refold: Refold, giver: str, taker: str, amount: int) -> bool:
    """Try a transfer; tell whether nothing had changed since the accounts were read."""
    try:
        await refold.transact(BANK, await transfer(refold, giver, taker, amount))
    except Conflict:
        return False
    return True


async def transfer(refold: Refold, giver: str, taker: str, amount: int) -> list[dict[str, Any]]:
    """Return the changes of a transfer, with the versions at which the accounts are read."""
    changes = []
    for name, change in ((giver, -amount), (taker, amount)):
        account = await refold.get(BANK, name)
        patch = [{"op": "inc", "path": "/balance", "inc": change}]
        changes.append({"doc": name, "version": account.version, "patch": patch, "type": "transfer"})
    return changes


async def balances(refold: Refold, sequence: int) -> dict[str, int]:
    """Read all accounts as of one sequence of the log."""
    return {account.id: account.state["balance"] async for account in refold.list(BANK, sequence=sequence)}
