"""Folds the log of a real history in Node (examples/node-fold) and compares every head with Refold's own.

A command of its own: `PYTHONPATH=tests python tests/acceptance/foreign_fold.py [--lines N]`.
It starts the whole system, imports the first lines of the real history, and reads the log back for the other fold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from refold.core.stream import Record
from refold.transfer import LinesFile
from refold.wiring.servers import open_log
from support.node import foreign_fold, own_fold
from support.servers import running_postgres
from support.system import System, running_system
from support.up import run_refold

HISTORY = Path(__file__).parents[3] / "shared" / "data" / "eol-history.jsonl.zst"
NAMESPACE = "eol"
SHOWN_MAX = 20


def import_lines(url: str, history: Path, lines: int, path: Path) -> dict[str, Any]:
    """Import the first lines of a history by the command, and return what it printed."""
    with path.open("wb") as file:
        for _, text in islice(LinesFile(history).lines(), lines):
            assert text is not None
            file.write(text.rstrip() + b"\n")
    done = run_refold("import", NAMESPACE, str(path), "--url", url, "--json")
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


async def records_of(system: System) -> tuple[list[Record], str]:
    """Read the log to its end; return it with its id."""
    log = await open_log(system.nats.url("projector"), "foreign-fold")
    found: list[Record] = []
    try:
        info = await log.info()
        async with aclosing(log.read(0)) as runs:
            async for records in runs:
                found += records
                if records[-1].sequence >= info.last_sequence:
                    return found, info.log_id
    finally:
        await log.close()
    raise AssertionError


async def heads_of(url: str, keys: Sequence[str]) -> dict[str, tuple[str, str | None]]:
    """Read each document's head from the service: its version, and its state's bytes as they are sent."""
    heads: dict[str, tuple[str, str | None]] = {}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
        for key in keys:
            answer = await client.get(f"/v1/{key}")
            assert answer.status_code in {200, 404}, answer.text
            state = answer.content.decode() if answer.status_code == 200 else None
            newest = await client.get(f"/v1/{key}/history", params={"order": "desc", "limit": 1})
            heads[key] = str(newest.json()["items"][0]["version"]), state
    return heads


async def chains_of(system: System) -> dict[str, str]:
    """Read each partition's hash chain from the projection."""
    connection = await asyncpg.connect(system.postgres_dsn, ssl=False)
    try:
        rows = await connection.fetch("SELECT partition, encode(chain, 'hex') FROM refold.checkpoints")
    finally:
        await connection.close()
    return {str(partition): chain for partition, chain in rows}


def compare(system: System) -> list[str]:
    """Fold the system's log in Node, and name what differs from the service, its projection and our own fold."""
    log, log_id = asyncio.run(records_of(system))
    started_at = time.monotonic()
    with foreign_fold() as foreign:
        found = foreign.fold(log)
    seconds = time.monotonic() - started_at
    documents = [key for key in found["documents"] if not key.startswith("_")]
    print(f"Node folded {len(log):,} events of {len(documents):,} documents in {seconds:.1f} s")
    heads = asyncio.run(heads_of(system.url, documents))
    chains = asyncio.run(chains_of(system))
    ours = own_fold(log, log_id)
    equal = [key for key in documents if heads[key] == _head(found["documents"][key])]
    states = sum(len(state or "") for _, state in heads.values())
    print(
        f"{len(equal):,} of {len(documents):,} heads equal: version and canonical bytes ({states:,} of them)"
    )
    differing = [f"the head of {key}" for key in documents if key not in equal]
    pairs = zip(found["outcomes"], ours["outcomes"], strict=True)
    differing += [f"the outcome at {at}" for at, (theirs, own) in enumerate(pairs, 1) if theirs != own]
    return differing + [f"chain {at}" for at, chain in found["chains"].items() if chains[at] != chain]


def main() -> int:
    """Start a system, import, compare; 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=Path, default=HISTORY)
    parser.add_argument("--lines", type=int, default=2_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        with (
            running_postgres(path / "postgres") as postgres,
            running_system(postgres, path / "system") as system,
        ):
            printed = import_lines(system.url, given.history, given.lines, path / "lines.jsonl")
            print(f"{printed['events']:,} events of {printed['lines']:,} lines imported")
            differing = compare(system)
    for what in differing[:SHOWN_MAX]:
        print(f"differs: {what}")
    print(f"{len(differing)} differences")
    return 1 if differing else 0


def _head(document: dict[str, Any]) -> tuple[str, str | None]:
    return document["version"], document["state"]


if __name__ == "__main__":
    sys.exit(main())
