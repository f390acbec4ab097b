"""One document and all that can be done with it: subscribe, write, look back, export, keep a second client in sync.

`python examples/01_basic_state_sync/main.py` starts a system in a temporary folder, and ends it.
"""

import asyncio
import json
from contextlib import AsyncExitStack, aclosing

import sync
import transactions
import versions
from trip import STATE, TRIP

from refold import temporary_system
from refold.client import DocumentUpdate, Patch, Refold

BUDGET, ONLINE = "/budget", "/travellers/*/online"
CHANGES: tuple[tuple[str, Patch, tuple[str, ...]], ...] = (
    ("a stop more", [{"op": "add", "path": "/stops/-", "value": "Sintra"}], ("",)),
    ("Ben is here", [{"op": "replace", "path": "/travellers/ben/online", "value": True}], ("", ONLINE)),
    ("tickets", [{"op": "inc", "path": "/budget/spent", "inc": 120}], ("", BUDGET)),
    (
        "Ben stays at home",
        [
            {"op": "remove", "path": "/travellers/ben"},
            {"op": "replace", "path": "/budget", "value": {"total": 450, "spent": 120}},
        ],
        ("", BUDGET, ONLINE),
    ),
)
"""What Ann does, and which subscriptions receive it."""


async def main() -> None:
    """Start the system, and play the scenes."""
    async with (
        temporary_system(durability="os") as system,
        Refold(system.http) as ann,
        Refold(system.http) as ben,
    ):
        await subscribe(ann, ben)
        await versions.look_back(ann)
        await versions.read_history(ann)
        await versions.export_and_import(ann)
        await transactions.play(ann)
        await sync.keep_in_sync(ann, ben)


async def subscribe(ann: Refold, ben: Refold) -> None:
    """Subscribe to a whole document, to a path and to a pattern; receive what another client writes."""
    print("\n▸ Ben subscribes to a document at three paths; Ann writes")
    await ann.put(*TRIP, STATE, actor="ann", type="trip.planned")
    async with AsyncExitStack() as stack:
        # Each by itself would be: async for update in ben.watch(*TRIP, path=path).
        subscriptions = {
            path: await stack.enter_async_context(aclosing(ben.watch(*TRIP, path=path)))
            for path in ("", BUDGET, ONLINE)
        }
        for path, updates in subscriptions.items():
            show_update(path, await anext(updates))
        for about, patch, receivers in CHANGES:
            print(f"  Ann: {about}")
            await ann.patch(*TRIP, patch, actor="ann", type="trip.changed")
            for path in receivers:
                show_update(path, await anext(subscriptions[path]))


def show_update(path: str, update: DocumentUpdate) -> None:
    """Print what is at a path, or what has changed there."""
    shown = {"gone": update.gone, "values": update.values, "patch": update.patch, "state": update.state}
    name = next(name for name, value in shown.items() if value)
    print(f"    {path or 'all':21} {update.version} {name:6} {json.dumps(shown[name], ensure_ascii=False)}")


asyncio.run(main())
