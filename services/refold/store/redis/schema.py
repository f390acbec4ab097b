"""One projection: the log that it is bound to, its checkpoints, and the server that may hold it.

Part of the Redis adapter.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final
from uuid import uuid4

from refold.core import json_text
from refold.core.errors import StoreDamaged, StoreDiffers, StoreUnavailable
from refold.core.fold_state import first_checkpoints
from refold.core.stream import PARTITIONS, Checkpoint
from refold.store import DAMAGES
from refold.store.redis.keys import Keys
from refold.store.redis.pool import Command, Connection, Pool
from refold.store.redis.rows import Position, pack_checkpoint, to_checkpoint

SCANNED_KEYS: Final = 1_000
"""Keys that the server looks at in one step of a search."""

FORMAT: Final = 1
"""The layout of keys and values."""

BOUND_SECONDS: Final = 10.0
"""The longest wait for the id of the log, which commands and starts ask for first."""

_REDIS_MIN: Final = (6, 2)
_VALKEY_MIN: Final = (7, 2)


REWRITE_SECONDS_MAX: Final = 600.0
REWRITE_POLL_SECONDS: Final = 0.02
"""The longest wait for the append-only file to be rewritten, and how often the server is asked."""


async def check_server(pool: Pool) -> bool:
    """Refuse a server that cannot hold a projection; tell whether it loses everything when it ends.

    Raises `StoreDiffers`, which names the cause and what to change.
    """
    async with pool.lend() as connection:
        info = await _info(connection)
    is_valkey = "valkey_version" in info
    version = info["valkey_version" if is_valkey else "redis_version"]
    if _numbers(version) < (_VALKEY_MIN if is_valkey else _REDIS_MIN):
        message = "the server is too old: Redis 6.2, Valkey 7.2 or newer is needed"
        raise StoreDiffers(message, version=version)
    if info.get("cluster_enabled") == "1":
        message = (
            "the server runs in cluster mode, where a commit cannot be one transaction: use a server without "
            "it; to scale, give each shard of the projection a server of its own"
        )
        raise StoreDiffers(message, cluster_enabled=True)
    if info.get("role") != "master":
        host = f"{info.get('master_host')}:{info.get('master_port')}"
        raise StoreDiffers("the server is a replica: use the address of its primary", primary=host)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        message = "the server may evict keys of the projection: set maxmemory-policy to noeviction"
        raise StoreDiffers(message, maxmemory_policy=policy)
    return info.get("aof_enabled") != "1"


async def rewrite_after_restart(connection: Connection, keys: Keys) -> None:
    """Have the append-only file rewritten once after each start of the server, before the first commit.

    A server that finds the file cut off within a command of a transaction drops the transaction, but leaves its MULTI
    and the commands before the cut in the file (seen with Redis 7.0.15 and Valkey 8.1): at its next start it would do
    these together with the next transaction. Raises `StoreUnavailable`.
    """
    info = await _info(connection)
    (rewritten,) = await connection.run([("GET", keys.run)])
    run = info["run_id"].encode()
    if rewritten == run:
        return
    await _rewrite(connection, info)
    await connection.run([("SET", keys.run, run)])


async def rewrite_file(connection: Connection) -> None:
    """Have the append-only file rewritten, if there is one. Raises `StoreUnavailable`."""
    await _rewrite(connection, await _info(connection))


async def _rewrite(connection: Connection, info: dict[str, str]) -> None:
    if info.get("aof_enabled") != "1":
        return
    is_asked = False
    polls = range(round(REWRITE_SECONDS_MAX / REWRITE_POLL_SECONDS))
    for _ in polls:
        if not _is_rewriting(info):
            if is_asked:
                break
            await connection.run([("BGREWRITEAOF",)])
            is_asked = True
        await asyncio.sleep(REWRITE_POLL_SECONDS)
        info = await _info(connection)
    else:
        raise StoreUnavailable("the server does not end rewriting its file", seconds=REWRITE_SECONDS_MAX)
    if info.get("aof_last_bgrewrite_status") != "ok":
        message = "the server cannot rewrite its append-only file, which may hold what must not come back"
        raise StoreUnavailable(message, aof_last_bgrewrite_status=info.get("aof_last_bgrewrite_status"))


def _is_rewriting(info: dict[str, str]) -> bool:
    return "1" in {info.get("aof_rewrite_in_progress"), info.get("aof_rewrite_scheduled")}


async def _info(connection: Connection) -> dict[str, str]:
    (text,) = await connection.run([("INFO",)])
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])


async def bind(pool: Pool, keys: Keys, log_id: str) -> list[Checkpoint]:
    """Create log and checkpoints where there are none; return the checkpoints. Raises `StoreDiffers`, `StoreDamaged`.

    The second of two processes reads those of the first.
    """
    async with pool.lend() as connection:
        (found,) = await connection.watch([keys.log], [("GET", keys.log)])
        if found is None:
            await connection.execute(_first_rows(keys, log_id))
    (found,) = await pool.run(("GET", keys.log))
    bound = _read_log(found)
    if bound != log_id:
        raise StoreDiffers("the Redis database projects another log", expected=log_id, found=bound)
    return await read_checkpoints(pool, keys)


def _first_rows(keys: Keys, log_id: str) -> list[Command]:
    checkpoints = first_checkpoints(log_id)
    links: list[bytes | int] = []
    for checkpoint in checkpoints:
        links += [checkpoint.partition, pack_checkpoint(checkpoint)]
    first = checkpoints[0]
    position = Position((first.read_sequence, first.recorded_at, first.fold))
    return [
        # Of two projections of one log, the epoch says which.
        ("SET", keys.log, json_text.dumps({"log": log_id, "format": FORMAT, "epoch": str(uuid4())})),
        ("HSET", keys.checkpoints, *links),
        ("SET", keys.groups, bytes(PARTITIONS)),
        ("SET", keys.shard(0), position.pack()),
    ]


async def bound_log(url: str, schema: str) -> str | None:
    """Return the id of the log that a schema projects, without reading its other keys; None where there is none."""
    pool = Pool(url, 1, command_seconds=BOUND_SECONDS)
    try:
        (found,) = await pool.run(("GET", Keys(schema).log))
    finally:
        await pool.close()
    return None if found is None else _read_log(found)


async def put_aside(url: str, schema: str, kept: str) -> bool:
    """Rename the keys of a schema to those of another; return whether there were any.

    The log's key is renamed last: a renaming that was interrupted is done again.
    """
    begins, renamed, cursor = Keys(schema).all, Keys(kept).all, b"0"
    found: set[bytes] = set()
    pool = Pool(url, 1)
    try:
        while True:
            ((cursor, keys),) = await pool.run(
                ("SCAN", cursor, "MATCH", begins + b"*", "COUNT", SCANNED_KEYS)
            )
            found.update(keys)
            if cursor == b"0":
                break
        for key in sorted(found, key=lambda key: key == Keys(schema).log):
            await pool.run(("RENAME", key, renamed + key.removeprefix(begins)))
    finally:
        await pool.close()
    return bool(found)


def is_bound_to(stored: bytes | None, log_id: str) -> bool:
    """Tell whether the value of the log's key names this log. Raises `StoreDiffers`, `StoreDamaged`."""
    return stored is not None and _read_log(stored) == log_id


def stored_format(stored: bytes | None) -> int:
    """Return the format that the value of the log's key names; 0 where there is no projection."""
    if stored is None:
        return 0
    found: int = json_text.object_in(stored).get("format", 0)
    return found


def _read_log(stored: bytes | None) -> str:
    try:
        assert stored is not None
        row = json_text.loads(stored)
        if row["format"] > FORMAT:
            facts = {"format": row["format"], "known": FORMAT}
            raise StoreDiffers("the Redis database was made by a newer program", **facts)
        log_id: str = row["log"]
    except DAMAGES as error:
        raise StoreDamaged(
            "the key that names the projection's log cannot be read", cause=str(error)
        ) from error
    return log_id


async def read_checkpoints(pool: Pool, keys: Keys) -> list[Checkpoint]:
    """Read every partition's checkpoint, in their order; none before a log is bound. Raises `StoreDamaged`."""
    async with pool.lend() as connection:
        return await checkpoints_by(connection, keys)


async def checkpoints_by(connection: Connection, keys: Keys) -> list[Checkpoint]:
    """Read the checkpoints on one connection."""
    shards = [keys.shard(group) for group in range(PARTITIONS)]
    log, groups, positions, links = await connection.read_at_once(
        ("GET", keys.log), ("GET", keys.groups), ("MGET", *shards), ("HGETALL", keys.checkpoints)
    )
    if log is None and groups is None and not links:
        return []
    try:
        return _to_checkpoints(groups, positions, dict(zip(links[::2], links[1::2], strict=True)))
    except DAMAGES as error:
        cause = f"{type(error).__name__}: {error}"
        raise StoreDamaged("the projection's checkpoints are missing or damaged", cause=cause) from error


def _to_checkpoints(groups: Any, positions: list[Any], links: dict[bytes, bytes]) -> list[Checkpoint]:
    if len(groups) != PARTITIONS:
        raise ValueError(f"{len(groups)} groups")
    return [
        to_checkpoint(partition, links[b"%d" % partition], Position.unpack(positions[group]))
        for partition, group in enumerate(groups)
    ]
