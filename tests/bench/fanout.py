"""Live streams: one change to thousands of subscribers, the way to few, a hot document, many gauges, memory.

Run by `python -m bench`. Latency is counted from the instant at which a change's publication was due.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import psutil

from bench import goals
from bench.filling import fill, fold_all
from bench.ground.streams import write_to_all
from bench.peers.install import install_npm
from bench.processes import Ended, Worker
from bench.report import NO_DISK, Durability, Measure, Report, Samples
from bench.system import Options, Whole, refuse_url, whole_system
from bench.tasks.outcome import publish_changes
from bench.tasks.subscribe import read_streams
from bench.usage import ProcessorClock
from refold.bench import machine, percentiles
from refold.bench.workload import NAMESPACE, Event
from refold.core.errors import TimedOut
from refold.embedded.process import LOOPBACK, choose_port

MEASUREMENTS: Final = ("wide", "near", "hot", "gauges")
PEER: Final = "peer"
"""Another one, which needs Node and npm."""

READERS: Final = 2
"""Processes that the subscribers are in."""

LAST_SECONDS: Final = 60.0
"""What has not come this long after the last outcome is missing."""

PEERS: Final = Path.home() / ".cache/refold-peers"
SHAREDB: Final = Path(__file__).parent / "peers/sharedb.mjs"
SETTLED_SECONDS: Final = 2.0
GAUGES: Final = 20
KIBIBYTE: Final = 1024
OUTCOME: Final = "publish → outcome, same run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how much."""

    measurements: tuple[str, ...] = MEASUREMENTS
    subscribers: int = 10_000
    changes: int = 50
    interval_seconds: float = 0.5
    value_bytes: int = 16
    idle_seconds: float = 20.0
    peer_bytes: int = 365
    near: int = 100
    hot: int = 1_000
    rate: float = 1_000.0
    seconds: float = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Changes of documents, in turn; the first version of each has its members."""

    documents: list[str]
    rate: float
    count: int
    value_bytes: int = 40
    members: int = 1
    together: int = 1

    @property
    def last_version(self) -> int:
        """The version that each document has after them."""
        return 1 + self.count // len(self.documents)

    def lateness(self, document: int, noted: dict[str, Any], due: Sequence[float]) -> list[float]:
        """Return how late a subscriber had read each version of its document, in milliseconds."""
        late, known = [], 1
        for at, version in zip(noted["times"], noted["versions"], strict=True):
            numbers = ((each - 2) * len(self.documents) + document for each in range(known + 1, version + 1))
            late += [(at - due[number]) * 1_000 for number in numbers]
            known = max(known, version)
        return late


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was published and read, and the processor time of the gateway meanwhile."""

    published: Ended
    readers: list[Ended]
    noted: list[dict[str, Any]]
    gateway_seconds: float

    @property
    def events(self) -> int:
        """Messages with changes that came, over all subscribers."""
        return sum(each["events"] for each in self.noted)

    @property
    def reader_seconds(self) -> float:
        """Processor time of the subscribers."""
        return sum(each.cpu_seconds for each in self.readers)


async def run(options: Options, plan: Plan) -> Report:
    """Measure each in turn, in each round in a system of its own."""
    refuse_url(options, "it watches the processes of a system of its own")
    samples = Samples()
    parts = {"wide": _wide, "near": _near, "hot": _hot, "gauges": _gauges, PEER: _peer}
    for number in range(1, options.rounds + 1):
        samples.calibrate()
        for name in plan.measurements:
            async with whole_system(options) as system:
                await parts[name](system, plan, options.durability, samples)
            options.say(f"round {number}: {name} done")
    return Report(
        command="fanout",
        durability=options.durability,
        parameters=asdict(plan),
        machine=machine(),
        figures=samples.figures(),
    )


async def _wide(system: Whole, plan: Plan, durability: Durability, samples: Samples) -> None:
    """One change to all, with what they cost while nothing changes; then the same bytes from a bare loop."""
    name = f"one change to {plan.subscribers:,} subscribers"
    changes = Changes(
        documents=["wide"],
        rate=1 / plan.interval_seconds,
        count=plan.changes,
        value_bytes=plan.value_bytes,
    )
    await made(system, changes)
    # What a first subscriber loads belongs to none.
    async with watching(system.http, _paths(changes), 1, 1):
        pass
    before = _resident(system)
    async with watching(system.http, _paths(changes), plan.subscribers, changes.last_version) as readers:
        await asyncio.sleep(SETTLED_SECONDS)
        memory = Measure(unit="KiB", durability=NO_DISK, goal=goals.SUBSCRIBER_KIBIBYTES)
        each = (_resident(system) - before) / plan.subscribers / KIBIBYTE
        samples.add(f"memory of one of {plan.subscribers:,} idle subscribers", each, memory)
        await _idle(system, plan, samples)
        read = await published(system, changes, readers)
    deliveries = plan.changes * plan.subscribers
    frame_bytes = round(sum(it["bytes"] for it in read.noted) / read.events)
    ground, ground_ms, ground_us = await _wide_ground(name, plan, frame_bytes, samples)
    late = [ms for noted in read.noted for ms in changes.lateness(0, noted, read.published.value["due"])]
    measure = Measure(unit="ms", durability=durability, ground=ground)
    samples.add_latency(name, late, measure)
    share = Measure(unit="times", durability=NO_DISK, goal=goals.FANOUT_SHARE)
    samples.add(f"{name}, p99 by that of the bare loop", percentiles(sorted(late))["p99"] / ground_ms, share)
    cpu = Measure(unit="µs/delivery", durability=NO_DISK)
    gateway_us = read.gateway_seconds * 1e6 / deliveries
    samples.add(f"{name}, CPU of the gateway", gateway_us, cpu)
    samples.add(f"{name}, CPU of the subscribers", read.reader_seconds * 1e6 / deliveries, cpu)
    samples.add(f"{name}, CPU of the gateway by that of the bare loop", gateway_us / ground_us, share)
    bytes_each = Measure(unit="bytes", durability=NO_DISK)
    samples.add(f"{name}, size of a message", frame_bytes, bytes_each)
    merged = Measure(unit="messages", durability=NO_DISK)
    samples.add(f"{name}, messages of {plan.changes} changes", read.events / plan.subscribers, merged)


async def _idle(system: Whole, plan: Plan, samples: Samples) -> None:
    clock = ProcessorClock([("gateway", system.pid("gateway"))])
    await asyncio.sleep(plan.idle_seconds)
    share = Measure(unit="%", durability=NO_DISK)
    used = clock.seconds()["gateway"] / plan.idle_seconds * 100
    samples.add(f"CPU of a gateway with {plan.subscribers:,} idle subscribers", used, share)


async def _wide_ground(name: str, plan: Plan, frame_bytes: int, samples: Samples) -> tuple[str, float, float]:
    """Write the same from a bare loop; return the figure's name, its p99, and the processor time of a delivery."""
    port = choose_port(LOOPBACK, 0)
    given = {"port": port, "frame_bytes": frame_bytes, "changes": plan.changes}
    async with await Worker.start(write_to_all, interval_seconds=plan.interval_seconds, **given) as writer:
        await writer.ready()
        async with watching(f"http://{LOOPBACK}:{port}", ["/"], plan.subscribers, plan.changes) as readers:
            for each in (*readers, writer):
                each.go()
            read = await ended_of(readers)
        writer.stop()
        wrote = await writer.ended()
    late = []
    for ended in read:
        for noted in ended.value:
            pairs = zip(noted["times"], noted["versions"], strict=True)
            late += [(at - wrote.value["begun"][version - 1]) * 1_000 for at, version in pairs]
    ground = f"{name}: bare uvloop"
    samples.add_latency(ground, late, Measure(unit="ms", durability=NO_DISK, is_ground=True))
    each_us = wrote.cpu_seconds * 1e6 / plan.changes / plan.subscribers
    samples.add(f"{ground}, CPU", each_us, Measure(unit="µs/delivery", durability=NO_DISK, is_ground=True))
    return ground, percentiles(sorted(late))["p99"], each_us


async def _peer(_: Whole, plan: Plan, __: Durability, samples: Samples) -> None:
    """The same as `wide` with ShareDB, whose database and writer are in its own process."""
    home, name = install_npm(PEERS), f"one change to {plan.subscribers:,} subscribers"
    await _wide_ground(name, plan, plan.peer_bytes, samples)
    given = {
        "home": home,
        "bytes": plan.peer_bytes,
        "changes": plan.changes,
        "interval": plan.interval_seconds,
    }
    words = [word for option, value in given.items() for word in (f"--{option}", str(value))]
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec("node", str(SHAREDB), *words, stdin=pipe, stdout=pipe)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = f"http://{LOOPBACK}:{orjson.loads(await server.stdout.readline())['port']}"
        async with watching(url, ["/"], plan.subscribers, 1 + plan.changes, is_peer=True) as readers:
            for reader in readers:
                reader.go()
            server.stdin.write(b"go\n")
            read = await ended_of(readers)
            server.stdin.write(b"stop\n")
            ended = orjson.loads(await server.stdout.readline())
    finally:
        with suppress(ProcessLookupError):
            server.kill()
        await server.wait()
    late = []
    for noted in (each for worker in read for each in worker.value):
        pairs = zip(noted["times"], noted["versions"], strict=True)
        late += [(at - ended["begun"][version - 2]) * 1_000 for at, version in pairs]
    peer = f"{name}: ShareDB"
    samples.add_latency(peer, late, Measure(unit="ms", durability=NO_DISK))
    each_us = ended["cpu_seconds"] * 1e6 / plan.changes / plan.subscribers
    samples.add(f"{peer}, CPU", each_us, Measure(unit="µs/delivery", durability=NO_DISK))
    memory = Measure(unit="KiB", durability=NO_DISK)
    samples.add(
        f"{peer}, memory of a subscriber, all of the process",
        ended["bytes"] / plan.subscribers / KIBIBYTE,
        memory,
    )


async def _near(system: Whole, plan: Plan, durability: Durability, samples: Samples) -> None:
    """Few subscribers at a rate: each of a document of its own, then all of one document."""
    for documents in (plan.near, 1):
        changes = Changes(
            documents=[f"near{documents}-{number}" for number in range(documents)],
            rate=plan.rate,
            count=int(plan.rate * plan.seconds) // documents * documents,
        )
        await made(system, changes)
        async with watching(system.http, _paths(changes), plan.near, changes.last_version) as readers:
            read = await published(system, changes, readers)
        due = read.published.value["due"]
        late = [
            ms
            for number, noted in enumerate(read.noted)
            for ms in changes.lateness(number % documents, noted, due)
        ]
        kind = "a document each" if documents > 1 else "one document"
        name = f"{plan.near} subscribers of {kind}, {plan.rate:,.0f} changes/s"
        ground = f"{name}: {OUTCOME}"
        measure = Measure(unit="ms", durability=durability, ground=ground)
        samples.add_latency(name, late, measure)
        own = Measure(unit="ms", durability=durability, is_ground=True)
        samples.add_latency(ground, read.published.value["milliseconds"], own)
        _note_gateway(name, read, changes, samples)


async def _hot(system: Whole, plan: Plan, durability: Durability, samples: Samples) -> None:
    """A hot document: how long after the last change all have it, and what the gateway takes."""
    count = int(plan.rate * plan.seconds)
    changes = Changes(documents=["hot"], rate=plan.rate, count=count)
    await made(system, changes)
    async with watching(
        system.http, _paths(changes), plan.hot, changes.last_version, is_kept=False
    ) as readers:
        read = await published(system, changes, readers)
    name = f"{plan.hot:,} subscribers of a document with {plan.rate:,.0f} changes/s"
    last_due = read.published.value["due"][-1]
    last = max(noted["last_at"] for noted in read.noted) - last_due
    goal = Measure(unit="ms", durability=durability, goal=goals.HOT_HEAD)
    samples.add(f"{name}, all at the head after the last change", last * 1_000, goal)
    samples.add(
        f"{name}, last outcome after its publication",
        read.published.value["milliseconds"][-1],
        Measure(unit="ms", durability=durability, is_ground=True),
    )
    _note_gateway(name, read, changes, samples)
    each = Measure(unit="messages/s", durability=NO_DISK)
    samples.add(f"{name}, messages to one", read.events / plan.hot / plan.seconds, each)


async def _gauges(system: Whole, plan: Plan, durability: Durability, samples: Samples) -> None:
    """Many gauges of a document at 100 Hz: bytes with an interval of a second, beside those of every change."""
    for together in (1, GAUGES):
        changes = Changes(
            documents=[f"gauges{together}"],
            rate=100,
            count=int(100 * plan.seconds),
            value_bytes=8,
            members=GAUGES,
            together=together,
        )
        await made(system, changes)
        path = _paths(changes)[0]
        paths = [f"{path}?interval=1000", f"{path}?merge=false"]
        async with watching(system.http, paths, READERS * 2, changes.last_version) as readers:
            read = await published(system, changes, readers)
        merged, single = (sum(noted["bytes"] for noted in read.noted[at::2]) for at in (0, 1))
        name = f"{GAUGES} gauges, 100 changes/s of {together}, interval 1 s: share of the unmerged bytes"
        goal = goals.GAUGES_SHARE if together == GAUGES else None
        samples.add(name, merged / single * 100, Measure(unit="%", durability=durability, goal=goal))


async def made(system: Whole, changes: Changes) -> None:
    """Make the documents, and wait until they are folded."""
    state = {f"m{number}": "" for number in range(changes.members)}
    body = orjson.dumps({"put": state})
    await fill(system.nats, iter([Event(document, body) for document in changes.documents]))
    await fold_all(system)


@asynccontextmanager
async def watching(
    url: str, paths: list[str], count: int, last_version: int, *, is_kept: bool = True, is_peer: bool = False
) -> AsyncIterator[list[Worker]]:
    """Open streams in processes of their own, and read for as long as the block runs."""
    async with AsyncExitStack() as stack:
        workers = []
        share = -(-count // READERS)
        for first in range(0, count, share):
            worker = await Worker.start(
                read_streams,
                url=url,
                paths=paths,
                first=first,
                count=min(share, count - first),
                last_version=last_version,
                is_kept=is_kept,
                is_peer=is_peer,
            )
            workers.append(await stack.enter_async_context(worker))
        for worker in workers:
            await worker.ready()
        yield workers


async def published(system: Whole, changes: Changes, readers: list[Worker]) -> Read:
    """Publish changes, and wait until all subscribers have read the last one."""
    async with await Worker.start(publish_changes, url=system.nats, **asdict(changes)) as publisher:
        await publisher.ready()
        clock = ProcessorClock([("gateway", system.pid("gateway"))])
        for each in (*readers, publisher):
            each.go()
        ended = await publisher.ended()
        read = await ended_of(readers)
        seconds = clock.seconds()["gateway"]
    noted = [each for worker in read for each in worker.value]
    return Read(published=ended, readers=read, noted=noted, gateway_seconds=seconds)


async def ended_of(readers: list[Worker]) -> list[Ended]:
    """Wait until all subscribers have what they wait for. Raises `TimedOut`."""
    try:
        async with asyncio.timeout(LAST_SECONDS):
            return list(await asyncio.gather(*(each.ended() for each in readers)))
    except TimeoutError as error:
        raise TimedOut("subscribers lack the last version", seconds=LAST_SECONDS) from error


def _note_gateway(name: str, read: Read, changes: Changes, samples: Samples) -> None:
    seconds = changes.count / changes.rate
    cores = Measure(unit="cores", durability=NO_DISK, goal=goals.ONE_CORE)
    samples.add(f"{name}, CPU of the gateway", read.gateway_seconds / seconds, cores)


def _paths(changes: Changes) -> list[str]:
    return [f"/v1/{NAMESPACE}/{document}/live" for document in changes.documents]


def _resident(system: Whole) -> int:
    return int(psutil.Process(system.pid("gateway")).memory_info().rss)
