"""Reads every change of an imported history back, by version and by occurred time, and compares it with its line.

A command of its own: `python tests/acceptance/read_back.py --url http://127.0.0.1:8080 FILE NAMESPACE`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from bisect import bisect_right
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

from refold.client import Document, Refold
from refold.core import json_text
from refold.core.errors import DocumentAbsent
from refold.transfer import LinesFile

AT_ONCE = 32
ABSENT = b"absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One line that changed its document, with its expected version and state.

    `at_its_time` is the digest of the state expected at the line's own time: its own state, unless a later
    line of the document has the same time or an earlier one.
    """

    line: int
    document: str
    version: int
    ts: int
    digest: bytes
    at_its_time: bytes


@dataclass(slots=True, kw_only=True)
class Report:
    """What was read back. `shared` counts the lines whose time is not above their document's time before."""

    changes: int = 0
    shared: int = 0
    by_version: int = 0
    by_time: int = 0
    differing: list[str] = field(default_factory=list)


def changes_of(path: Path) -> list[Change]:
    """Read the changes that the import should make of a file: consecutive equal states are one."""
    by_document: dict[str, list[tuple[int, int, bytes]]] = {}
    for number, text in LinesFile(path).lines():
        assert text is not None, number
        line = json_text.loads(text)
        state = line["state"]
        digest = ABSENT if state is None else sha256(json_text.dumps(state)).digest()
        made = by_document.setdefault(line["doc"], [])
        if digest != (made[-1][2] if made else ABSENT):
            made.append((number, line["ts"], digest))
    changes = [change for document, made in by_document.items() for change in _numbered(document, made)]
    return sorted(changes, key=lambda change: change.line)


def _numbered(document: str, made: list[tuple[int, int, bytes]]) -> Iterable[Change]:
    clock = list(accumulate((ts for _, ts, _ in made), max))
    for place, (number, ts, digest) in enumerate(made):
        # The last version whose running maximum of times is at or before this line's time.
        seen = bisect_right(clock, ts)
        at_its_time = made[seen - 1][2] if seen else ABSENT
        yield Change(
            line=number, document=document, version=place + 1, ts=ts, digest=digest, at_its_time=at_its_time
        )


async def read_back(url: str, namespace: str, changes: Sequence[Change]) -> Report:
    """Read them all, many at once."""
    report = Report(changes=len(changes))
    waiting = iter(changes)
    async with Refold(url) as refold, asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(_reader(refold, namespace, waiting, report))
    return report


async def _reader(refold: Refold, namespace: str, waiting: Iterable[Change], report: Report) -> None:
    for change in waiting:
        names = namespace, change.document
        by_version = await _digest(refold.get(*names, version=change.version))
        by_time = await _digest(refold.get(*names, at=change.ts, clock="occurred"))
        report.by_version += by_version == change.digest
        report.by_time += by_time == change.at_its_time
        report.shared += change.digest != change.at_its_time
        if (by_version, by_time) != (change.digest, change.at_its_time):
            report.differing.append(f"line {change.line}: {change.document} version {change.version}")


async def _digest(reading: Awaitable[Document]) -> bytes:
    try:
        return sha256(json_text.dumps((await reading).state)).digest()
    except DocumentAbsent:
        return ABSENT


def main() -> int:
    """Read the arguments, read everything back, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("file", type=Path)
    parser.add_argument("namespace")
    given = parser.parse_args()
    changes = changes_of(given.file)
    started_at = time.monotonic()
    report = asyncio.run(read_back(given.url, given.namespace, changes))
    seconds = time.monotonic() - started_at
    for line in report.differing[:20]:
        print(f"DIFFERS  {line}")
    print(f"{report.changes:,} changes ({report.shared:,} share or precede their document's time before)")
    print(f"{report.by_version:,} equal by version, {report.by_time:,} equal by occurred time")
    print(f"{len(report.differing):,} differ; {2 * report.changes / seconds:,.0f} reads/s")
    return 1 if report.differing else 0


if __name__ == "__main__":
    sys.exit(main())
