"""What happens to events on their way: compressed, sent again, waited for, batched, put in order, held back.

`python examples/07_enhanced_event_handlers/main.py` starts a system in a temporary folder, plays six scenes, and ends
it. Each scene returns how many changes were acknowledged; at the end, each of them is there, and none twice.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from textwrap import indent

import backpressure
import batches
import compression
import coordination
import ordering
import resilience

from refold import System, temporary_system
from refold.client import Refold

WAIT_SECONDS = 50.0
"""How long a write waits for its outcome, also where this machine is slow."""


async def main() -> None:
    """Start the system, and play the scenes."""
    async with temporary_system(
        durability="os",
        http_waiting_max=backpressure.WAITING_MAX,
        live_per_client_max=backpressure.LIVE_MAX,
        wait_seconds=WAIT_SECONDS,
    ) as system:
        # As `export` in a shell: the command finds the system by it.
        os.environ["REFOLD_DATA"] = str(system.data)
        changes = [
            await compression.send_large_events(system),
            await resilience.lose_answers(system),
            await resilience.kill_everything(system),
            await coordination.wait_for_each_other(system),
            await batches.compare_sizes(system),
            await ordering.shuffle(system),
            await ordering.miss_notices(system),
            await backpressure.read_slowly(system),
            await backpressure.write_too_much(system),
        ]
        await check(system, sum(changes))


async def check(system: System, acknowledged: int) -> None:
    """Compare what clients received with what is there: each effective event makes one version of its document."""
    print("\n▸ At the end: is everything there, and nothing twice?")
    async with Refold(system.http) as refold:
        versions = 0
        for namespace in await refold.namespaces():
            # `_refold` is the system's own: the beginning of the log.
            if namespace.name != "_refold":
                versions += sum([document.version async for document in refold.list(namespace.name)])
    print(f"  {acknowledged:,} changes were acknowledged, the documents have {versions:,} versions")
    assert versions == acknowledged
    await command("verify")


async def command(line: str) -> None:
    """Run a command of `refold`, as one would in a terminal; print its output, and check its exit code."""
    print(f"  $ refold {line}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "refold", *line.split()), stdout=PIPE, stderr=STDOUT
    )
    output, _ = await process.communicate()
    print(indent(output.decode(), "    "), end="")
    assert process.returncode == 0, (line, process.returncode)


asyncio.run(main())
