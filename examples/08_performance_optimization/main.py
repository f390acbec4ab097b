"""What makes the system quick, each measured in this run: shards, batches, caches, memory; and a small benchmark.

`python examples/08_performance_optimization/main.py` starts systems in temporary folders, one after the other, and ends
them. It uses the measurements of `refold bench`.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from textwrap import indent

import batching
import caches
import memory
import shards
import workloads

from refold import temporary_system


async def main() -> None:
    """Measure one part after the other."""
    shards.show_partitions()
    await shards.compare()
    async with temporary_system(durability="os", log_level="warning") as system:
        # As `export` in a shell: the commands find the system by it.
        os.environ["REFOLD_DATA"] = str(system.data)
        await batching.count_commits(system)
        await caches.compare_sizes(system)
        await workloads.run(system)
        await memory.show_processes(system)
        print("\n▸ Shards: fold the whole log again, by one process and by two")
        await command("rebuild --processes 1")
        await command("rebuild --processes 2")
    memory.compare_collections()
    memory.compare_pool()


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
