"""The checks of the gateway's `/health`: NATS, the log, the stores, projectors, keys, alerts and builds.

Used by the gateway's composition. Projectors and gateways answer for themselves on `refold.control`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Final

from refold import __version__
from refold.core.errors import LogError, LogUnavailable, RefoldError
from refold.core.stream import PARTITIONS
from refold.gateway.consistency import Consistency
from refold.log import LogInfo, Replicas, lag_seconds
from refold.log.jetstream import JetStreamLog
from refold.log.jetstream.stream import check_log
from refold.projector import FOLDING, Stage
from refold.store.layers.sources import Source
from refold.telemetry import instance
from refold.telemetry.health import Check, Finding, Health, Status, within
from refold.telemetry.http import get
from refold.telemetry.metrics.samples import firing_alerts, parse
from refold.wiring.gateway_stores import GatewayStores
from refold.wiring.instances import (
    Answer,
    ProjectorAnswer,
    ask_instances,
    owner_counts,
    owners_of,
    projectors,
)
from refold.wiring.settings import Settings
from refold.wiring.stores import ConnectedStore

RESPONSE_SECONDS: Final = 0.25
"""A server that takes longer to answer is a warning."""

USED_PERCENT_WARN: Final = 80.0
USED_PERCENT_FAIL: Final = 95.0
"""How much of the log's space may be used."""

CLOCK_SECONDS: Final = 1.0
"""How far the clocks of this machine and of the broker may be apart."""

LOG_CHECK_AGE_SECONDS: Final = 300.0
"""How long ago the projectors may have compared the log with their checkpoints, which they do every minute. The alert
`LogIntegritySilent` has the same limit."""


def health_of(
    log: JetStreamLog, stores: GatewayStores, consistency: Consistency, settings: Settings
) -> Health:
    """Return the health of the system as this gateway sees it."""
    lag_seconds_max, engine = settings.ready_lag_seconds, settings.alerts_url
    checks = _Checks(log=log, stores=stores, consistency=consistency, lag_seconds_max=lag_seconds_max)
    made = [
        Check("nats:responseTime", checks.nats),
        Check("log:configuration", checks.state),
        Check("store:responseTime", checks.each_store),
        *([] if engine is None else [Check("alerts:firing", partial(check_alerts, engine))]),
        Check("projector:stage", checks.instances),
    ]
    return Health(made, version=__version__, service=instance())


async def check_alerts(url: str, seconds: float) -> list[Finding]:
    """Ask the alert engine which alerts fire. Its documents lack those that came since the projector stopped."""
    about = "alerts:firing"
    try:
        answer = await get(f"{url}/metrics", seconds=0.9 * seconds)
        firing = firing_alerts(parse(answer.body.decode()))
    except (OSError, ValueError) as error:
        output = f"not known, the alert engine at {url} does not answer: {error or type(error).__name__}"
        return [Finding(name=about, status="warn", output=output)]
    if firing is None:
        return [Finding(name=about, status="warn", output=f"not known: {url} is not an alert engine")]
    names = sorted(alert for alert, _ in firing)
    return [Finding.limited(about, len(names), warn=0, unit="alerts", output=", ".join(names))]


@dataclass(slots=True, kw_only=True)
class _Checks:
    """What the checks need, and what this run has found so far: whether NATS answers, and the log's state if it could
    be read. Where NATS does not answer, checks that need it are skipped.
    """

    log: JetStreamLog
    stores: GatewayStores
    consistency: Consistency
    lag_seconds_max: float
    has_broker: bool = field(default=False, init=False)
    info: LogInfo | None = field(default=None, init=False)

    async def nats(self, _: float) -> list[Finding]:
        started, self.has_broker = perf_counter(), False
        if not self.log.client.is_connected:
            raise LogUnavailable("not connected to the broker")
        await self.log.client.flush()
        self.has_broker = True
        return [_response("nats:responseTime", perf_counter() - started)]

    async def state(self, _: float) -> list[Finding]:
        self.info = None
        if not self.has_broker:
            return []
        self.info = info = await self.log.info()
        found = [Finding(name="log:configuration", value=info.log_id)]
        try:
            await check_log(self.log.client, log_id=info.log_id)
        except LogError as error:
            found = [Finding.failed("log:configuration", error)]
        found += [_replicas(info.replicas), _clock(self.log.clock_offset_seconds)]
        if info.limit_bytes is not None:
            found.append(_used(info.bytes, info.limit_bytes))
        return found

    async def each_store(self, seconds: float) -> list[Finding]:
        """Ask all stores at once: one that hangs leaves the others their time."""
        names = [source.name for source in self._sources] or list(self.stores.opened)
        by_store = await asyncio.gather(*(self._store(name, 0.9 * seconds) for name in names))
        found = _degraded(by_store)
        for source in self._sources:
            state = source.breaker.state
            status: Status = "pass" if state == "closed" else "warn"
            output = source.breaker.last_failure if status == "warn" else ""
            found.append(
                Finding(
                    name="store:breaker", status=status, value=state, output=output, component=source.name
                )
            )
        return found

    async def _store(self, name: str, seconds: float) -> list[Finding]:
        about = "store:responseTime"
        store: ConnectedStore | None = self.stores.opened.get(name)
        if store is None:
            problem = next((each.problem for each in self._sources if each.name == name), None)
            output = problem or "it could not be opened yet"
            return [Finding(name=about, status="fail", output=output, component=name)]
        started = perf_counter()
        try:
            applied, known = await within(store.migrations(), seconds)
        except TimeoutError:
            output = f"no answer within {seconds:.1f} s"
            return [Finding(name=about, status="fail", output=output, component=name)]
        except RefoldError as error:
            return [Finding.failed(about, error, component=name)]
        answered = replace(_response(about, perf_counter() - started), component=name)
        return [answered, _migration(name, applied, known)]

    @property
    def _sources(self) -> Sequence[Source]:
        """The stores where there are several."""
        return self.stores.sources.stores if self.stores.sources else ()

    async def instances(self, seconds: float) -> list[Finding]:
        """Ask all projectors and gateways for their state."""
        if not self.has_broker:
            return [_keys([], self.stores.key_problem)]
        stores = [source.name for source in self._sources] or [""]
        answers = await ask_instances(self.log.client, stores, 0.9 * seconds)
        asked = projectors(answers)
        return [
            *map(_stage, asked),
            *_degraded([[_owner(store, asked)] for store in stores]),
            *await self._lag(),
            *_ages(asked),
            _keys(asked, self.stores.key_problem),
            _versions(answers),
        ]

    async def _lag(self) -> list[Finding]:
        """Return how far the projection is behind the log, in each of several stores."""
        info = self.info
        if info is None:
            return []
        folded = {each.name: min(each.sequences) for each in self._sources}
        folded = folded or {"": self.consistency.sequence}
        seconds = await asyncio.gather(
            *(lag_seconds(self.log, info, sequence) for sequence in folded.values())
        )
        return _degraded(
            [
                _behind(store, max(0, info.last_sequence - sequence), each, self.lag_seconds_max)
                for (store, sequence), each in zip(folded.items(), seconds, strict=True)
            ]
        )


def _response(name: str, seconds: float) -> Finding:
    output = "it takes long to answer"
    return Finding.limited(name, round(seconds, 6), warn=RESPONSE_SECONDS, unit="s", output=output)


def _used(used: int, limit: int) -> Finding:
    output = f"{used:,} of {limit:,} bytes are used: see infra/runbooks/disk-full.md"
    percent = round(100 * used / limit, 1)
    return Finding.limited(
        "log:utilization",
        percent,
        warn=USED_PERCENT_WARN,
        fail=USED_PERCENT_FAIL,
        unit="percent",
        output=output,
    )


def _replicas(replicas: Replicas) -> Finding:
    """Return how many servers have all of the log: an append needs more than half of them."""
    current, wanted = replicas.current, sum(replicas[:3])
    status: Status = "pass" if current == wanted else "warn" if 2 * current > wanted else "fail"
    output = f"{replicas.lagging} behind, {replicas.offline} out of reach" if current < wanted else ""
    return Finding(
        name="log:replicas", status=status, value=current, unit="replicas", limit=wanted, output=output
    )


def _clock(offset_seconds: float) -> Finding:
    found = Finding.limited(
        "log:clockOffset",
        round(abs(offset_seconds), 3),
        warn=CLOCK_SECONDS,
        unit="s",
        output=f"the broker's clock is {offset_seconds:+.1f} s off this machine's",
    )
    return replace(found, value=round(offset_seconds, 3))


def _migration(store: str, applied: int, known: int) -> Finding:
    if applied == known:
        return Finding(name="store:migration", value=applied, limit=known, component=store)
    output = f"the tables have migration {applied} and this program knows {known}: run one version everywhere"
    return Finding(
        name="store:migration", status="fail", value=applied, limit=known, output=output, component=store
    )


def _stage(answer: ProjectorAnswer) -> Finding:
    stage, error = answer["stage"], answer.get("error")
    is_folding = stage in {each.value for each in FOLDING} and not error
    status: Status = "pass" if is_folding else "warn" if stage == Stage.starting.value else "fail"
    output = "" if is_folding else f"{stage}: {error}" if error else stage
    return Finding(
        name="projector:stage", status=status, value=stage, output=output, component=answer["instance"]
    )


def _owner(store: str, answers: Sequence[ProjectorAnswer]) -> Finding:
    """Return whether each partition is folded into a store, or the only one, by exactly one projector."""
    counts = owner_counts(store, answers)
    lacking, several = counts.count(0), sum(count > 1 for count in counts)
    output = f"{lacking} of {PARTITIONS} partitions have no owner" if lacking else ""
    if not answers:
        output = "no projector answered"
    elif several:
        output = f"{several} of {PARTITIONS} partitions have several owners"
    names = ", ".join(sorted(each["instance"] for each in owners_of(store, answers)))
    status: Status = "fail" if output else "pass"
    return Finding(name="projector:owner", status=status, value=names or None, output=output, component=store)


def _behind(store: str, events: int, seconds: float, seconds_max: float) -> list[Finding]:
    """Return the lag of a store, or of the only one."""
    output = f"{store or 'the projection'} is behind the log by {events:,} events"
    limited = Finding.limited(
        "projector:lagSeconds", seconds, warn=seconds_max, fail=seconds_max, unit="s", output=output
    )
    counted = Finding(name="projector:lagEvents", value=events, unit="events", component=store)
    return [counted, replace(limited, component=store)]


def _keys(answers: Sequence[ProjectorAnswer], own_problem: str | None) -> Finding:
    """Return what projectors and this gateway say about the keys of the stores."""
    found = sorted({problem for each in answers if (problem := each.get("problem"))})
    found += [own_problem] if own_problem else []
    return Finding.limited("keys:problems", len(found), warn=0, unit="problems", output="; ".join(found))


def _ages(answers: Sequence[ProjectorAnswer]) -> Iterator[Finding]:
    """Yield how long ago there was a commit, and how long ago each working projector compared the log."""
    working = owners_of("", answers)
    committed = [age for each in working if (age := each.get("commit_age_seconds")) is not None]
    checked = [age for each in working if (age := each.get("log_check_age_seconds")) is not None]
    if committed:
        yield Finding(name="projector:lastCommit", value=min(committed), unit="s")
    if checked:
        output = "the projectors could not compare the log with their checkpoints"
        yield Finding.limited(
            "log:integrityAge", max(checked), warn=LOG_CHECK_AGE_SECONDS, unit="s", output=output
        )


def _versions(answers: Sequence[Answer]) -> Finding:
    own = {instance(): __version__}
    found = own | {each["instance"]: each["version"] for each in answers}
    versions = sorted(set(found.values()))
    output = ", ".join(f"{name}: {version}" for name, version in sorted(found.items()))
    return Finding.limited("builds:versions", len(versions), warn=1, unit="versions", output=output)


def _degraded(by_store: Sequence[list[Finding]]) -> list[Finding]:
    """Make failures warnings while another store has none: reads are answered from that one."""
    has_whole = any(map(_is_whole, by_store))
    return [
        replace(each, status="warn") if has_whole and each.status == "fail" else each
        for findings in by_store
        for each in findings
    ]


def _is_whole(findings: Sequence[Finding]) -> bool:
    return all(each.status != "fail" for each in findings)
