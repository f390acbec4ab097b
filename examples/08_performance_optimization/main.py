"""What makes the system quick, each measured in this run: shards, batches, caches, memory; and a small benchmark.

`python examples/08_performance_optimization/main.py` starts systems in temporary folders, one after the other, and ends
them. It uses the measurements of `refold bench`.
"""

import asyncio
import os

import batching
import caches
import memory
import shards
import workloads
from show import commands, say

from refold.wiring.system import temporary_system


async def main() -> None:
    """Measure one part after the other."""
    shards.show_partitions()
    await shards.compare()
    async with temporary_system("example", lambda _: None, durability="os", log_level="warning") as system:
        os.environ["REFOLD_DATA"] = str(system.data)
        await batching.count_commits(system)
        await caches.compare_sizes(system)
        await workloads.run(system)
        await memory.show_processes(system)
        say("Shards: fold the whole log again, by one process and by two")
        await commands("rebuild --processes 1", "rebuild --processes 2")
    memory.compare_collections()
    memory.compare_pool()


asyncio.run(main())
