"""This machine on a dashboard: four sources at their own rates, and dashboards that each get what they can take.

`python examples/03_realtime_dashboard/main.py` starts a system in a temporary folder, records for seven seconds, and
ends it. With `--page` it records until Ctrl-C, and prints the address of a web page that shows it.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial
from hashlib import pbkdf2_hmac
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from threading import Thread

from dashboards import Dashboard, read_feed
from sources import EMPTY, SOURCES, Producer, measure

from refold import temporary_system
from refold.client import NamespaceUpdate, Refold

NAMESPACE, DOCUMENT = HOST = "machine", "host"
SECONDS = 7.0
JOBS = 3
JOB_ROUNDS = 1_500_000
"""What a job computes: about a second of one core."""


async def main(*, has_page: bool) -> None:
    """Start the system, and record."""
    page = ThreadingHTTPServer(("127.0.0.1", 0), partial(Page, directory=str(Path(__file__).parent)))
    origin = f"http://127.0.0.1:{page.server_port}"
    async with (
        temporary_system(durability="os", cors_origins=origin) as system,
        Refold(system.http) as refold,
    ):
        begun = await refold.put(*HOST, EMPTY, type="host.seen")
        producer = Producer(refold, *HOST)
        if has_page:
            Thread(target=page.serve_forever, daemon=True).start()
            print(f"{origin}/dashboard.html?gateway={system.http}")
            async with recording(producer):
                while True:
                    await run_jobs(refold)
        await record(refold, producer, begun.version or 0, begun.sequence or 0)


async def record(refold: Refold, producer: Producer, version: int, sequence: int) -> None:
    """Record while three dashboards and a feed follow from the beginning; report what each got."""
    every = Dashboard(name="every change", version=version, options={"after": version, "merge": False})
    slow = Dashboard(name="once a second", version=version, options={"after": version, "interval": 1})
    gauges = Dashboard(name="/now/*/percent", version=version, options={"path": "/now/*/percent"})
    dashboards = every, slow, gauges
    async with asyncio.TaskGroup() as group:
        for dashboard in dashboards:
            group.create_task(dashboard.follow(refold, *HOST))
        activity = group.create_task(read_feed(refold, NAMESPACE, "job.*", after=sequence, count=2 * JOBS))
        async with recording(producer):
            await asyncio.gather(run_jobs(refold), asyncio.sleep(SECONDS))
        last = (await refold.get(*HOST)).version
        # It ends the dashboards; the history stays.
        await refold.delete(*HOST)

    report_sources(producer)
    report_dashboards(every, slow, gauges)
    delays = [every.seen[event] - sent for event, sent in producer.sent.items()]
    print(f"  sent → on the dashboard in {1_000 * median(delays):.1f} ms (median)")
    ring = (await refold.get(*HOST, version=last, path="/recent/cpu")).state
    print(f"\n▸ CPU: the last {len(ring)} of {producer.counts['cpu']} values")
    print(" ", sparkline(ring))
    report_activity(activity.result())

    # The last change is the delete.
    changes = producer.counts["events"] + 1
    assert every.updates == changes > slow.updates
    assert {dashboard.changes for dashboard in dashboards} == {changes}
    assert ring == list(producer.ring)
    for dashboard in dashboards:
        await dashboard.check(refold, *HOST)


@asynccontextmanager
async def recording(producer: Producer) -> AsyncIterator[None]:
    """Measure and send during a block."""
    async with asyncio.TaskGroup() as group:
        group.create_task(producer.run())
        measuring = [group.create_task(measure(source, producer)) for source in SOURCES]
        yield
        for task in measuring:
            task.cancel()
        producer.is_ended = True


async def run_jobs(refold: Refold) -> None:
    """Do some work that the figures show; each job is a document with its own events."""
    for number in range(1, JOBS + 1):
        job = NAMESPACE, f"job-{number}"
        await refold.put(*job, {"status": "running"}, type="job.started", actor="runner")
        await asyncio.to_thread(pbkdf2_hmac, "sha256", b"", b"", JOB_ROUNDS)
        await refold.merge(*job, {"status": "done"}, type="job.ended", actor="runner")
        await asyncio.sleep(1)


def report_sources(producer: Producer) -> None:
    """Print how much was measured, and in how few events it was sent."""
    counts = producer.counts
    print("\n▸ Four sources at their own rates, one producer")
    for source in SOURCES:
        print(f"  {source.name:8} {source.rate:4} per second {counts[source.name]:5} samples")
    print(
        f"  {counts['values']:,} values in {counts['events']} events with {counts['operations']:,} operations"
    )


def report_dashboards(every: Dashboard, *others: Dashboard) -> None:
    """Print what each dashboard received, beside whole states at every change."""
    print("\n▸ What the dashboards received")
    for name, updates, changes, count in (
        ("whole states", every.updates, every.changes, every.state_bytes),
        *((each.name, each.updates, each.changes, each.received_bytes) for each in (every, *others)),
    ):
        saved = 1 - count / every.state_bytes
        print(
            f"  {name:14} {updates:3} updates of {changes} changes {count / 1_000:6.1f} KB {saved:6.1%} saved"
        )


def report_activity(activity: Iterable[NamespaceUpdate]) -> None:
    """Print the feed: changes of some types in all documents, and none of the figures."""
    print("\n▸ Activity: type job.* in all documents")
    found = [(update.type, update.document) for update in activity]
    for kind, document in found:
        print(f"  {kind:11} {document}")
    jobs = [f"job-{number}" for number in range(1, JOBS + 1)]
    assert found == [(f"job.{what}", job) for job in jobs for what in ("started", "ended")]


def sparkline(percents: list[float]) -> str:
    """Draw percentages as bars."""
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(percent / 12.5))] for percent in percents)


class Page(SimpleHTTPRequestHandler):
    """Serves the files of this folder."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


with suppress(KeyboardInterrupt):
    asyncio.run(main(has_page="--page" in sys.argv))
