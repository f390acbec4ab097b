"""Imports a real history while NATS and PostgreSQL are killed repeatedly; then compares everything with the log.

A command of its own: `PYTHONPATH=tests python tests/acceptance/kill_servers.py [--lines N] [--kills N] [FILE]`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import orjson
from read_back import ABSENT, Change, changes_of

from refold.client import Document, Outcome, Refold
from refold.core.document import Status
from refold.core.errors import LogUnavailable, ServiceUnavailable, TimedOut
from refold.core.stream import SYSTEM_NAMESPACE
from refold.log import Appended, Publication
from refold.store.ports import SnapshotStore
from refold.telemetry.logging import configure
from refold.transfer import LinesFile
from refold.transfer.importer import BATCH_LINES_MAX
from refold.wiring.servers import running_servers
from support.fold1 import open_envelope
from support.kept import Kept, keeping
from support.killable import KillableServers
from support.services import Site, contents, folded_to, log_of, make_site, store_of, undisturbed
from support.system import free_port

HISTORY: Final = Path(__file__).parents[3] / "shared" / "data" / "eol-history.jsonl.zst"
NAMESPACE: Final = "eol"
WRITTEN: Final = "written"
WRITTEN_DOCUMENTS: Final = 16
WRITTEN_TOGETHER: Final = 8
AUTHORED: Final = "authored"
AUTHORS: Final = 4
LOOK_SECONDS: Final = 0.02
MOMENT_SECONDS: Final = 0.5
"""A kill comes at a random moment within this after its share of the events is in the log."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What happened, and the differences found."""

    restart_seconds: dict[str, list[float]] = field(default_factory=dict)
    services_ended: list[str] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=dict)
    in_doubt: int = 0
    not_sent: int = 0
    authored: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    imported: dict[str, Any] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)

    def expect(self, what: str, *, found: Any, expected: Any) -> None:
        """Note a difference."""
        if found != expected:
            self.differing.append(f"{what}: {str(found)[:200]}, expected {str(expected)[:200]}")


async def soak(file: Path, folder: Path, given: argparse.Namespace) -> Report:
    """Run everything, and return the result."""
    changes = changes_of(file)
    print(f"{len(changes):,} changes of {file.name}, {given.kills} kills of each server, seed {given.seed}")
    async with running_servers(folder / "data") as servers:
        killable = KillableServers(servers)
        report = Report(restart_seconds=killable.restart_seconds)
        try:
            site = await make_site(servers.nats, servers.postgres.dsn)
            port = free_port()
            services = _services(site, port, folder, given.projectors)
            async with keeping(services):
                await _listening(port)
                await _import(site, f"http://127.0.0.1:{port}", file, killable, report, given, len(changes))
                await _check(site, changes, report)
            # Only the servers are killed: a service that ends is a fault.
            report.services_ended = [f"{it.name}: {code}" for it in services for code, _ in it.exits]
        finally:
            await killable.stop()
    return report


async def _import(
    site: Site,
    url: str,
    file: Path,
    killable: KillableServers,
    report: Report,
    given: argparse.Namespace,
    expected_events: int,
) -> None:
    command = (sys.executable, "-m", "refold", "import", NAMESPACE, str(file), "--url", url, "--json")
    started_at = time.monotonic()
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    has_ended = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        others = [tasks.create_task(_write(site, report))]
        others += [tasks.create_task(_author(url, f"author-{it}", report)) for it in range(AUTHORS)]
        kills = _kills(given, expected_events)
        killing = tasks.create_task(_kill(site, killable, report, kills, has_ended))
        printed, _ = await process.communicate()
        has_ended.set()
        is_in_time = killing.done()
        await killing
        for other in others:
            other.cancel()
    report.expect("all kills were done when the import ended", found=is_in_time, expected=True)
    report.expect("the import's exit code", found=process.returncode, expected=0)
    report.imported = json.loads(printed or b"{}") | {"seconds": round(time.monotonic() - started_at, 1)}


def _kills(given: argparse.Namespace, expected_events: int) -> list[tuple[str, float, float]]:
    """Choose which server to kill, after how many imported events, and with which delay."""
    chance = random.Random(given.seed)
    names = ["nats", "postgres"] * given.kills
    chance.shuffle(names)
    # The import appends its last part at once: a kill after that would not interrupt it.
    last = 0.9 * max(0, expected_events - BATCH_LINES_MAX)
    events = sorted(chance.uniform(0, last) for _ in names)
    return [
        (name, after, chance.uniform(0, MOMENT_SECONDS)) for name, after in zip(names, events, strict=True)
    ]


async def _kill(
    site: Site,
    killable: KillableServers,
    report: Report,
    kills: list[tuple[str, float, float]],
    has_ended: asyncio.Event,
) -> None:
    async with log_of(site) as log:
        for name, after_events, moment_seconds in kills:
            while await _imported(log, report) < after_events:
                if has_ended.is_set():
                    return
                await asyncio.sleep(LOOK_SECONDS)
            await asyncio.sleep(moment_seconds)
            await killable.kill(name)


async def _imported(log: Any, report: Report) -> int:
    try:
        others = len(report.acknowledged) + report.authored.total()
        return int((await log.info()).last_sequence) - others
    except LogUnavailable:
        return 0


async def _write(site: Site, report: Report) -> None:
    """Append small events through the log's port, and record the acknowledged ones."""
    async with log_of(site) as log:
        for begin in count(0, WRITTEN_TOGETHER):
            together = range(begin, begin + WRITTEN_TOGETHER)
            await asyncio.gather(*(_write_one(log, number, report) for number in together))
            await asyncio.sleep(LOOK_SECONDS)


async def _write_one(log: Any, number: int, report: Report) -> None:
    body = orjson.dumps({"merge": {str(number % 7): number}, "id": f"w{number}"})
    name = f"{WRITTEN}-{number % WRITTEN_DOCUMENTS}"
    try:
        answer = await log.append(Publication(namespace=WRITTEN, document=name, body=body))
    except LogUnavailable:
        report.not_sent += 1
        return
    if isinstance(answer, Appended):
        report.acknowledged[f"w{number}"] = answer.sequence
    else:
        report.in_doubt += 1


async def _author(url: str, name: str, report: Report) -> None:
    """Write strictly, each on the version before, and read each back: no one else writes here, so nothing conflicts."""
    async with Refold(url) as refold:
        for version in count():
            event_id, expected = f"{name}-{version}", version + 1
            put = partial(refold.put, AUTHORED, name, event_id, id=event_id, if_version=version, strict=False)
            outcome: Outcome = await _with_retries(put, report)
            found = outcome.is_effective, outcome.version
            report.authored[outcome.status] += 1
            report.expect(f"the outcome of {event_id}", found=found, expected=(True, expected))
            get = partial(refold.get, AUTHORED, name, min_sequence=outcome.sequence)
            read: Document = await _with_retries(get, report)
            found = read.version, read.state
            report.expect(f"what is read after {event_id}", found=found, expected=(expected, event_id))


async def _with_retries(ask: Callable[[], Awaitable[Any]], report: Report) -> Any:
    """Repeat a request under the same id until it is answered."""
    while True:
        try:
            answer = await ask()
        except (ServiceUnavailable, TimedOut) as error:
            report.unanswered[error.code] += 1
            await asyncio.sleep(LOOK_SECONDS)
            continue
        if not isinstance(answer, Outcome) or answer.status != "pending":
            return answer
        report.unanswered["pending"] += 1


async def _check(site: Site, changes: list[Change], report: Report) -> None:
    async with log_of(site, "projector") as log, store_of(site) as store:
        last = (await log.info()).last_sequence
        await folded_to(store, last)
        await _check_log(await _records(log, last), store, changes, report)
        started_at = time.monotonic()
        oracle = await undisturbed(site)
        print(f"{last:,} events folded again, undisturbed, in {time.monotonic() - started_at:.1f} s")
        names = sorted({change.document for change in changes})
        await _check_source(store, changes, report)
        compared = {
            NAMESPACE: names,
            WRITTEN: _numbered(WRITTEN, WRITTEN_DOCUMENTS),
            AUTHORED: _numbered("author", AUTHORS),
        }
        for namespace, documents in compared.items():
            found = await contents(store, documents, namespace)
            expected = await contents(oracle, documents, namespace)
            for name in ("chains", *documents):
                report.expect(f"{namespace}/{name}", found=found[name], expected=expected[name])
        total = sum(len(documents) for documents in compared.values())
        print(f"{total} documents, all their entries and 64 chains compared")


async def _check_source(store: SnapshotStore, changes: list[Change], report: Report) -> None:
    """Check that each document ends in the state of its last line, with one version per change."""
    last = {change.document: change for change in changes}
    for name, change in last.items():
        head = await store.head(NAMESPACE, name)
        state = None if head is None else head.snapshot.state
        digest = ABSENT if state is None else sha256(state).digest()
        version = head.snapshot.version if head else 0
        report.expect(
            f"the last state of {name}", found=(version, digest), expected=(change.version, change.digest)
        )


async def _check_log(records: list[Any], store: SnapshotStore, changes: list[Change], report: Report) -> None:
    """Check that every acknowledged event is at its sequence and that none took effect twice."""
    at: dict[int, str] = {}
    ids: Counter[tuple[str, str, str]] = Counter()
    statuses: Counter[str] = Counter()
    lines: Counter[int] = Counter()
    for record in records:
        _, _, namespace, document = record.subject.decode().split(".")
        envelope = open_envelope(record.headers, record.body)
        if namespace == SYSTEM_NAMESPACE:
            continue
        at[record.sequence] = envelope.id
        ids[namespace, document, envelope.id] += 1
        entry = await store.entry(namespace, document, record.sequence)
        statuses[f"{namespace} {entry.status.name} {entry.reason}".strip()] += 1
        is_again = ids[namespace, document, envelope.id] > 1
        report.expect(
            f"{envelope.id} is a duplicate", found=entry.status is Status.duplicate, expected=is_again
        )
        if namespace == NAMESPACE and entry.status.is_effective:
            lines[orjson.loads(record.body)["meta"]["import"]["line"]] += 1
    report.expect("lines that took effect", found=set(lines), expected={change.line for change in changes})
    report.expect("times that a line took effect", found=set(lines.values()), expected={1})
    lost = [name for name, sequence in report.acknowledged.items() if at.get(sequence) != name]
    report.expect("acknowledged events that are not in the log", found=lost, expected=[])
    print(f"in the log: {dict(sorted(statuses.items()))}")
    print(f"sent again after a lost acknowledgement: {sum(times - 1 for times in ids.values()):,}")


async def _records(log: Any, last_sequence: int) -> list[Any]:
    found: list[Any] = []
    async with aclosing(log.read(0)) as runs:
        while len(found) < last_sequence:
            found += await anext(runs)
    return found


def _services(site: Site, port: int, folder: Path, projectors: int) -> list[Kept]:
    environments = {f"projector-{number}": site.environment() for number in range(projectors)}
    environments["gateway"] = site.gateway_environment(port)
    return [
        Kept(
            name=name,
            service=name.partition("-")[0],
            environment=environment,
            log=folder / f"{name}.log",
        )
        for name, environment in environments.items()
    ]


async def _listening(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(LOOK_SECONDS)


def _numbered(name: str, times: int) -> list[str]:
    return [f"{name}-{number}" for number in range(times)]


def _first_lines(file: Path, lines: int, folder: Path) -> Path:
    if not lines:
        return file
    taken = folder / "first.jsonl"
    texts = (text for _, text in islice(LinesFile(file).lines(), lines) if text is not None)
    taken.write_bytes(b"\n".join(texts) + b"\n")
    return taken


def main() -> int:
    """Read the arguments, do it, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=HISTORY)
    parser.add_argument("--lines", type=int, default=0, help="only the first N; 0 = all")
    parser.add_argument("--kills", type=int, default=10, help="of each server")
    parser.add_argument("--projectors", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    given = parser.parse_args()
    configure("error", service="soak")
    folder = Path(mkdtemp(prefix="refold-soak-"))
    report = asyncio.run(soak(_first_lines(given.file, given.lines, folder), folder, given))
    print(f"import: {report.imported}")
    for name, seconds in report.restart_seconds.items():
        slowest = max(seconds, default=0.0)
        print(f"{name}: killed {len(seconds)} times, up again within {slowest:.1f} s")
    counts = len(report.acknowledged), report.in_doubt, report.not_sent
    print("the writer: {:,} acknowledged, {:,} in doubt, {:,} not sent".format(*counts))
    print(f"the strict authors: {dict(report.authored)}; asked again: {dict(report.unanswered)}")
    print(f"services that ended by themselves: {report.services_ended}")
    for difference in report.differing[:50]:
        print(f"DIFFERS  {difference}")
    print(f"{len(report.differing):,} differ; logs in {folder}")
    return 1 if report.differing or report.services_ended else 0


if __name__ == "__main__":
    sys.exit(main())
