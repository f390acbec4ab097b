"""Kills Redis or Valkey under commits, and cuts off the end of its append-only file: nothing is ever torn.

A command of its own: `PYTHONPATH=tests python tests/acceptance/redis_damage.py [--kills N] [--cuts N] [--seed N]`.
After each restart:

- Checkpoints, heads, dedup windows, last pages, lists, counts and rejections are those of one and the same commit.
- After a kill alone, that is the last acknowledged commit, or the one that was under way.
- After a cut it may be an earlier one; folding continues from there.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from refold.core.document import Document
from refold.core.errors import HistoryElsewhere, StoreUnavailable
from refold.store import Depth, Key
from refold.store.redis import RedisStore
from support.redis_servers import RedisServer, redis_binary, running_redis, valkey_binary
from support.scribe import NAMESPACE, Scribe, state_bytes
from support.stores import LOG_ID

DOCUMENTS = ("a", "b:1", "~" * 128, "d", "e")
COMMIT_EVENTS_MAX = 40
KILL_SECONDS_MAX = 0.06
CUT_BYTES_MAX = 4_096
SETTINGS = ("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")


class Drill:
    """A projection under commits, and what it must hold at each sequence that a commit ends at."""

    def __init__(self, server: RedisServer, seed: int) -> None:
        self.server = server
        self.choose = random.Random(seed)
        self.expected: dict[int, dict[str, Any]] = {}
        self.acknowledged = 0
        self.counts: Counter[str] = Counter()

    async def run(self, rounds: int, *, is_cut: bool) -> None:
        """Commit, kill, perhaps cut, start again and compare, so many times."""
        scribe, store = await self._continue(None)
        self.expected.setdefault(scribe.sequence, self._expected(scribe))
        for _ in range(rounds):
            under_way = await self._commit_until_killed(store, scribe)
            allowed = {self.acknowledged, under_way}
            await store.close()
            if is_cut and self._cut():
                allowed = set(self.expected)
            self.server.start()
            scribe, store = await self._continue(scribe)
            assert scribe.sequence in allowed, (scribe.sequence, allowed)
            self.counts["commits rolled back"] += sum(at > scribe.sequence for at in self.expected)
            self.expected = {at: held for at, held in self.expected.items() if at <= scribe.sequence}
            self.acknowledged = scribe.sequence
            self.counts["restarts"] += 1
        await store.close()

    async def _commit_until_killed(self, store: RedisStore, scribe: Scribe) -> int:
        """Return the sequence that the last commit, which was not answered, would have ended at."""
        killing = asyncio.get_running_loop().call_later(
            self.choose.uniform(0, KILL_SECONDS_MAX), self.server.kill
        )
        while True:
            self._publish(scribe)
            commit = scribe.commit()
            self.expected[scribe.sequence] = self._expected(scribe)
            try:
                await store.commit(commit)
            except StoreUnavailable:
                assert killing.when() <= asyncio.get_running_loop().time(), "the server was not killed"
                return scribe.sequence
            self.acknowledged = scribe.sequence
            self.counts["commits"] += 1

    def _publish(self, scribe: Scribe) -> None:
        for _ in range(self.choose.randint(1, COMMIT_EVENTS_MAX)):
            name, number = self.choose.choice(DOCUMENTS), scribe.sequence
            event = self.choose.choice(
                [
                    {"put": {"n": number}},
                    {"merge": {str(number % 9): [number]}},
                    {"delete": True},
                    {"put": 1, "base": 0},
                ]
            )
            scribe.publish(name, {**event, "id": f"e{number}"})
            if self.choose.random() < 0.1:
                scribe.cut(name)

    def _expected(self, scribe: Scribe) -> dict[str, Any]:
        """Return what the store must answer once everything so far is committed."""
        keys = [key for key in scribe.documents if key[0] == NAMESPACE]
        present = sorted(name for _, name in keys if scribe.snapshots[NAMESPACE, name][-1].state is not None)
        return {
            "checkpoints": scribe.checkpoints(),
            "rows": {key: _row(scribe.documents[key]) for key in keys},
            "heads": {key: scribe.snapshots[key][-1] for key in keys},
            "entries": {key: scribe.kept(key[1], Depth.recent) for key in keys},
            "present": present,
            "count": (len(present), sum(scribe.documents[key].events for key in keys)) if keys else None,
        }

    async def _continue(self, before: Scribe | None) -> tuple[Scribe, RedisStore]:
        """Open the store, compare it with what its checkpoint says, and take the lease."""
        store = await RedisStore.open(self.server.url, lease_seconds=0.0)
        scribe = Scribe(await store.bind(LOG_ID))
        assert await store.acquire_lease()
        if before is not None:
            expected = self.expected[scribe.sequence]
            documents = {(it.namespace, it.document): it for it in await store.load(list(expected["rows"]))}
            found = await self._found(store, documents)
            for name, value in expected.items():
                assert found[name] == value, f"torn at {scribe.sequence}: {name}"
            keep = scribe.sequence
            for key, document in documents.items():
                scribe.documents[key] = document
                scribe.entries[key] = [it for it in before.entries[key] if it.sequence <= keep]
                scribe.snapshots[key] = [it for it in before.snapshots[key] if it.sequence <= keep]
                scribe.closed[key] = [it for it in before.closed[key] if it[1] <= keep]
        return scribe, store

    async def _found(self, store: RedisStore, documents: dict[Key, Document]) -> dict[str, Any]:
        heads = {key: await store.head(*key) for key in documents}
        listed = await store.list_documents(NAMESPACE, prefix="", where=None, limit=99, cursor=None)
        counts = [tuple(count)[1:] for count in await store.namespaces()]
        return {
            "checkpoints": await store.checkpoints(),
            "rows": {key: _row(document) for key, document in documents.items()},
            "heads": {key: head and head.snapshot for key, head in heads.items()},
            "entries": {key: await self._entries(store, key) for key in documents},
            "present": [head.document for head in listed.heads],
            "count": counts[0] if counts else None,
        }

    async def _entries(self, store: RedisStore, key: Key) -> list[Any]:
        runs = []
        segments = store.segments(*key, after_version=None, is_descending=True)
        async with aclosing(segments) as opened:
            with suppress(HistoryElsewhere):
                async for run in opened:
                    runs.append(run.entries)  # noqa: PERF401
        return [entry for run in reversed(runs) for entry in run]

    def _cut(self) -> bool:
        """Cut off the end of the file that commands are appended to; return whether anything was."""
        files = [*self.server.folder.glob("appendonlydir/*.incr.aof"), *self.server.folder.glob("*.aof")]
        newest = max(files, key=lambda path: path.stat().st_mtime)
        size = newest.stat().st_size
        cut = self.choose.randint(1, min(CUT_BYTES_MAX, size // 2 or 1))
        with newest.open("r+b") as file:
            file.truncate(max(0, size - cut))
        return cut > 0


def _row(document: Document) -> tuple[Any, ...]:
    """Return a copy of what is stored of a document."""
    return document.without_state(), state_bytes(document), list(document.identities.items())


def drill(binary: Path | None, *, kills: int, cuts: int, seed: int) -> Counter[str]:
    """Run both drills on one server; raise where anything is torn."""
    counts: Counter[str] = Counter()
    for rounds, is_cut in ((kills, False), (cuts, True)):
        with running_redis(binary, *SETTINGS) as server:
            made = Drill(server, seed + is_cut)
            asyncio.run(made.run(rounds, is_cut=is_cut))
            counts.update({f"{'cuts' if is_cut else 'kills'}: {name}": n for name, n in made.counts.items()})
    return counts


def main() -> int:
    """Read the arguments, do it, print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--server", choices=("redis", "valkey"), default="valkey")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    print(f"{given.kills} kills and {given.cuts} cuts of {given.server}, seed {given.seed}", flush=True)
    binary = redis_binary() if given.server == "redis" else valkey_binary()
    for name, count in sorted(drill(binary, kills=given.kills, cuts=given.cuts, seed=given.seed).items()):
        print(f"{name}: {count:,}")
    print("0 torn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
