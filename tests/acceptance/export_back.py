"""Imports a history, exports it, imports the export into another namespace, and compares every version of the two.

A command of its own: `PYTHONPATH=tests python tests/acceptance/export_back.py FILE [--lines N] [--url URL --into URL]`.
Without `--url` it starts a system of its own. Exit 1 on any difference.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from refold.client import Change, Document, Refold
from refold.core import json_text
from refold.core.errors import DocumentAbsent
from refold.transfer import LinesFile
from support.up import Up, environment

AT_ONCE = 16
ABSENT = "absent"


@dataclass(slots=True, kw_only=True)
class Report:
    """What was compared."""

    documents: int = 0
    versions: int = 0
    differing: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A namespace of a system."""

    refold: Refold
    namespace: str

    async def names(self) -> list[str]:
        """List every document that ever had a version."""
        return [name async for name in self.refold.names(self.namespace)]

    def changes(self, document: str) -> AsyncIterator[Change]:
        """Read a document's history."""
        return self.refold.history(self.namespace, document)

    async def state(self, document: str, version: int) -> str:
        """Digest a version's canonical bytes."""
        return await _digest(self.refold.get(self.namespace, document, version=version))


async def _digest(reading: Awaitable[Document]) -> str:
    try:
        return sha256(json_text.dumps((await reading).state)).hexdigest()
    except DocumentAbsent:
        return ABSENT


async def compare(first: Place, second: Place) -> Report:
    """Compare every version of every document, many documents at once."""
    report = Report()
    names, others = await first.names(), await second.names()
    report.differing += [f"{name}: in one of them only" for name in set(names) ^ set(others)]
    waiting = iter(names)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(_compare(first, second, waiting, report))
    return report


async def _compare(first: Place, second: Place, waiting: Iterator[str], report: Report) -> None:
    for document in waiting:
        report.documents += 1
        printed = [_described(change) async for change in first.changes(document)]
        again = [_described(change) async for change in second.changes(document)]
        if printed != again:
            report.differing.append(f"{document}: the description of its versions")
        for version in range(1, max(len(printed), len(again)) + 1):
            report.versions += 1
            if await first.state(document, version) != await second.state(document, version):
                report.differing.append(f"{document}: version {version}")


def _described(change: Change) -> tuple[Any, ...]:
    meta = change.meta if isinstance(change.meta, dict) else {}
    # Each import notes its own file and line.
    rest = json_text.dumps({name: value for name, value in meta.items() if name != "import"})
    return change.version, change.occurred_at, change.actor, change.type, change.status, rest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command that has ended: the JSON that it printed, how long it took, and the most memory it had."""

    printed: dict[str, Any]
    seconds: float
    peak_bytes: int


def run(*arguments: str) -> Ran:
    """Run a `refold` command and wait for it."""
    started_at = time.monotonic()
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "refold", *arguments, "--json"]
        process = subprocess.Popen(command, env=environment(), stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        printed = said.read().decode()
    assert process.returncode == 0, printed
    seconds = time.monotonic() - started_at
    return Ran(printed=json.loads(printed), seconds=seconds, peak_bytes=usage.ru_maxrss * 1024)


def export_back(file: Path, folder: Path, url: str, into: str) -> Report:
    """Run all steps, and report how long each took."""
    first, second = f"first-{uuid4().hex[:8]}", f"second-{uuid4().hex[:8]}"
    exported = folder / "exported.jsonl.zst"
    imported = run("import", first, str(file), "--url", url)
    _say("imported", imported, imported.printed["events"], "events")
    taken = run("export", first, "--history", "--out", str(exported), "--url", url)
    _say("exported", taken, taken.printed["lines"], "lines")
    rate = taken.printed["bytes"] / 1e6 / taken.printed["seconds"]
    print(
        f"  {taken.printed['bytes']:,} bytes of lines ({rate:,.1f} MB/s), {exported.stat().st_size:,} packed"
    )
    reimported = run("import", second, str(exported), "--url", into)
    _say("imported the export", reimported, reimported.printed["events"], "events")
    assert imported.printed["events"] == taken.printed["lines"] == reimported.printed["events"]
    started_at = time.monotonic()
    report = asyncio.run(_compared(url, into, first, second))
    seconds = time.monotonic() - started_at
    for differing in report.differing[:20]:
        print(f"DIFFERS  {differing}")
    print(f"compared {report.versions:,} versions of {report.documents:,} documents in {seconds:.1f} s")
    if report.versions != taken.printed["lines"]:
        report.differing.append("the number of versions")
    print(f"{len(report.differing):,} differ")
    return report


async def _compared(url: str, into: str, first: str, second: str) -> Report:
    async with Refold(url) as one, Refold(into) as other:
        return await compare(Place(refold=one, namespace=first), Place(refold=other, namespace=second))


def _say(what: str, ran: Ran, count: int, unit: str) -> None:
    rate = count / ran.printed["seconds"]
    peak = ran.peak_bytes / 1e6
    print(
        f"{what}: {count:,} {unit} in {ran.printed['seconds']:.1f} s ({rate:,.0f}/s), peak memory {peak:,.0f} MB"
    )


def _first_lines(file: Path, count: int | None, folder: Path) -> Path:
    if count is None:
        return file
    made = folder / "first.jsonl"
    with made.open("wb") as out:
        out.writelines(text + b"\n" for _, text in islice(LinesFile(file).lines(), count) if text is not None)
    return made


@contextmanager
def _system(given: str | None, folder: Path, durability: str) -> Iterator[str]:
    if given is not None:
        yield given
        return
    up = Up.start(folder / "data", "--durability", durability)
    try:
        yield up.url
    finally:
        up.stop()


def main() -> int:
    """Read the arguments, do it, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--lines", type=int, help="only the first so many")
    parser.add_argument("--url", help="a running system; else one is started")
    parser.add_argument("--into", help="another system for the second import")
    parser.add_argument("--durability", default="fsync", choices=("fsync", "os"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, _system(given.url, Path(name), given.durability) as url:
        file = _first_lines(given.file, given.lines, Path(name))
        report = export_back(file, Path(name), url, given.into or url)
    return 1 if report.differing else 0


if __name__ == "__main__":
    sys.exit(main())
