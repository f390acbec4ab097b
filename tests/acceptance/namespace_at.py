"""Lists a namespace over HTTP as of random sequences, and compares it with a fold of the log's prefix by jsonpatch.

A command of its own: `PYTHONPATH=tests python tests/acceptance/namespace_at.py [--lines N] [--sequences N] [--seed N]`.
It starts the whole system, imports the first lines of the real history, and reads the log itself for the oracle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from refold.embedded.nats import NatsServer
from refold.transfer import LinesFile
from refold.wiring.servers import open_log
from support.prefix import Prefix, differences, listed
from support.servers import running_postgres
from support.system import running_system
from support.up import run_refold

HISTORY = Path(__file__).parents[3] / "shared" / "data" / "eol-history.jsonl.zst"
NAMESPACE = "eol"
SHOWN_MAX = 20


class Event(NamedTuple):
    """One event of the namespace as the log has it."""

    sequence: int
    document: str
    event: dict[str, Any]


class Report(NamedTuple):
    """What was compared; `differing` names sequence and document."""

    sequences: int
    documents: int
    answers: int
    seconds: float
    differing: list[str]


async def compare(url: str, events: Sequence[Event], sequences: list[int], rng: random.Random) -> Report:
    """Fold the log up to each sequence in order, and compare the service's list with it."""
    prefix, waiting = Prefix(), iter(events)
    following = next(waiting, None)
    documents = answers = 0
    seconds, differing = 0.0, []
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as client:
        for sequence in sorted(sequences):
            while following is not None and following.sequence <= sequence:
                prefix.fold(following.document, following.event)
                following = next(waiting, None)
            started_at = time.monotonic()
            parts = [part async for part in listed_at(client, sequence, limit=rng.choice([37, 100, 1_000]))]
            seconds += time.monotonic() - started_at
            found = listed([item for part in parts for item in part])
            expected = prefix.listed()
            documents, answers = documents + len(expected), answers + len(parts)
            differing += [f"sequence {sequence}: {line}" for line in differences(expected, found)]
    return Report(len(sequences), documents, answers, seconds, differing)


async def listed_at(
    client: httpx.AsyncClient, sequence: int, *, limit: int
) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield the items of each answer along the cursors."""
    query: dict[str, Any] = {"sequence": sequence, "limit": limit}
    while True:
        response = await client.get(f"/v1/{NAMESPACE}", params=query)
        assert response.status_code == 200, response.text
        answer = response.json()
        yield answer["items"]
        if answer["next"] is None:
            return
        query["cursor"] = answer["next"]


async def events_of(nats: NatsServer) -> tuple[list[Event], int]:
    """Read the log to its end; return the namespace's events, and the last sequence."""
    log = await open_log(nats.url("projector"), "namespace-at")
    found: list[Event] = []
    try:
        last_sequence = (await log.info()).last_sequence
        async with aclosing(log.read(0)) as runs:
            async for records in runs:
                for record in records:
                    _, _, namespace, document = record.subject.decode().split(".")
                    if namespace == NAMESPACE:
                        found.append(Event(record.sequence, document, json.loads(record.body)))
                if records[-1].sequence >= last_sequence:
                    return found, last_sequence
    finally:
        await log.close()
    raise AssertionError


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


def measure(given: argparse.Namespace) -> Report:
    """Start a system, import, and compare."""
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        with (
            running_postgres(path / "postgres") as postgres,
            running_system(postgres, path / "system") as system,
        ):
            started_at = time.monotonic()
            printed = import_lines(system.url, given.history, given.lines, path / "lines.jsonl")
            print(
                f"{printed['events']:,} events of {printed['lines']:,} lines in {time.monotonic() - started_at:.1f} s"
            )
            events, last_sequence = asyncio.run(events_of(system.nats))
            assert len(events) == printed["events"], "each line that changes something is an event"
            sequences = [rng.randint(0, last_sequence) for _ in range(given.sequences)]
            return asyncio.run(compare(system.url, events, sequences, rng))


def main() -> int:
    """Read the arguments, compare, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=Path, default=HISTORY)
    parser.add_argument("--lines", type=int, default=3_000)
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    report = measure(given)
    for line in report.differing[:SHOWN_MAX]:
        print(f"DIFFERS  {line}")
    rate = report.documents / report.seconds
    print(
        f"{report.documents:,} documents compared at {report.sequences:,} sequences, {report.answers:,} answers"
    )
    print(f"{len(report.differing):,} differ; listed in {report.seconds:.1f} s, {rate:,.0f} documents/s")
    return 1 if report.differing or not report.documents else 0


if __name__ == "__main__":
    sys.exit(main())
