"""Replays a projection in several processes, one a shard of its partitions, and is what runs in each of them.

`python -m refold.wiring.replaying`; on stdin it is handed settings, shard and end, in one line of JSON.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

from refold.core import canonical
from refold.core.errors import ChildFailed, RefoldError
from refold.embedded.process import Command, tied
from refold.projector.shards import ReplayShard, begin_shard
from refold.store.postgres import PostgresStore
from refold.telemetry.logging import configure
from refold.wiring.log import open_log
from refold.wiring.projector import bounds_of, state_lag_of
from refold.wiring.service import run_folding
from refold.wiring.settings import Settings, environment_without, handed_on, load

PROCESSES_MAX: Final = 8
"""Each reads the whole log: with more, reading costs more than folding."""

CACHE_BYTES_MIN: Final = 16 * 1024 * 1024


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


async def replay_in_processes(
    settings: Settings, schema: str, shards: Sequence[ReplayShard], until_sequence: int
) -> None:
    """Fold all shards of a schema up to a sequence. Raises `ChildFailed`, which ends the others too."""
    cache = max(CACHE_BYTES_MIN, settings.cache_bytes_max // len(shards))
    flags = handed_on(settings, postgres_schema=schema, cache_bytes_max=cache)
    try:
        async with asyncio.TaskGroup() as tasks:
            for shard in shards:
                told = {"shard": shard.name, "partitions": shard.partitions, "until_sequence": until_sequence}
                tasks.create_task(_replay_elsewhere({**told, "settings": flags}), name=f"shard {shard.name}")
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


async def _replay_elsewhere(told: dict[str, Any]) -> None:
    arguments = (sys.executable, "-m", "refold.wiring.replaying")
    process = await asyncio.create_subprocess_exec(
        *tied(Command(name="replay", arguments=arguments, stop_signal=signal.SIGTERM)),
        env=environment_without(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        said, _ = await process.communicate(canonical.dumps(told) + b"\n")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        why = said.decode(errors="replace").strip() or f"exit code {process.returncode}"
        raise ChildFailed(f"a shard of the replay failed: {why}", shard=told["shard"])


def main() -> None:
    """Replay the shard that is handed to us; what fails is said on stdout."""
    told = canonical.loads(sys.stdin.buffer.readline())
    settings = load(**told["settings"])
    configure(settings.log_level, service="replay")
    shard = ReplayShard(name=told["shard"], partitions=tuple(told["partitions"]))
    try:
        run_folding(_replay(settings, shard, told["until_sequence"]))
    except RefoldError as error:
        sys.stdout.write(f"{error.code}: {error}\n")
        sys.exit(1)


async def _replay(settings: Settings, shard: ReplayShard, until_sequence: int) -> None:
    log = await open_log(settings.required("nats_url"), "refold-replay")
    try:
        dsn, schema = settings.required("postgres_url"), settings.postgres_schema
        store = await PostgresStore.open(
            dsn, schema=schema, shard=shard.name, readers_max=2, state_lag=state_lag_of(settings)
        )
        try:
            loop = await begin_shard(log, store, shard, bounds_of(settings))
            await loop.run(until_sequence)
        finally:
            await store.close()
    finally:
        await log.close()


if __name__ == "__main__":
    main()
