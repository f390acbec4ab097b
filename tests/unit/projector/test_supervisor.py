"""The projector's supervisor over the memory adapters: standby, takeover and unexpected errors."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client import Gauge

from refold.core.errors import LogUnavailable, StoreUnavailable
from refold.log import LogInfo, Replicas
from refold.log.memory import MemoryLog
from refold.projector import Stage
from refold.projector import supervisor as supervisor_module
from refold.projector.supervisor import Supervisor
from refold.store.memory import MemoryStore, Tables
from support.projection import ROOMY, append, ports
from support.services import until

HOUR_SECONDS = 3_600


async def _is(supervisor: Supervisor, stage: Stage) -> bool:
    return supervisor.stage is stage


async def test_a_silent_holder_loses_the_lease_and_returns_as_standby(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor_module, "STANDBY_SECONDS", 0.01)
    log, tables = MemoryLog("log-1"), Tables()
    silent = MemoryStore(tables)
    assert await silent.acquire_lease()
    supervisor = Supervisor(ports(log, MemoryStore(tables)), ROOMY)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: _is(supervisor, Stage.standby))
    tables.leases[""].renewed_at -= 60
    await until(lambda: _is(supervisor, Stage.working))
    sequence = await append(log, "a", {"put": 1})
    await until(lambda: _reached(supervisor, sequence))
    assert not await silent.acquire_lease()
    task.cancel()
    await asyncio.wait({task})


async def test_a_projector_on_standby_measures_nothing_of_its_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STANDBY_SECONDS", "SHARD_SIGN_SECONDS", "LAG_SECONDS"):
        monkeypatch.setattr(supervisor_module, name, 0.01)
    log, tables = MemoryLog("log-1"), Tables()
    wired, other = ports(log, MemoryStore(tables)), MemoryStore(tables)
    metrics = wired.metrics
    supervisor = Supervisor(wired, ROOMY)
    task = asyncio.create_task(supervisor.run())

    async def has_lag() -> bool:
        return bool(_values(metrics.lag_seconds))

    await until(has_lag)
    assert _values(metrics.shard_owned) == [1]
    assert _values(metrics.integrity_checked) > [0]
    tables.leases[""].renewed_at -= 60
    assert await other.acquire_lease()
    await until(lambda: _is(supervisor, Stage.standby))
    assert _values(metrics.shard_owned) == _values(metrics.integrity_checked) == [0]
    assert _values(metrics.lag_seconds) == _values(metrics.lag_events) == []
    task.cancel()
    await asyncio.wait({task})


async def test_documents_are_loaded_only_from_a_database_that_has_what_this_projector_committed() -> None:
    """`PostgresStore.refuse_stale` is given this; a loop that starts takes what the database has."""
    log, store = MemoryLog("log-1"), MemoryStore()
    supervisor = Supervisor(replace(ports(log, store), shard="3-4"), ROOMY)
    assert not any(supervisor.required_sequences())
    sequence = await append(log, "a", {"put": 1})
    task = asyncio.create_task(supervisor.run())
    await until(lambda: _reached(supervisor, sequence))
    required = supervisor.required_sequences()
    assert [number for number, least in enumerate(required) if least] == [3, 4]
    assert set(required[3:5]) == {sequence}
    task.cancel()
    await asyncio.wait({task})
    assert not any(supervisor.required_sequences())


async def test_lag_is_the_age_of_the_first_event_that_is_not_committed() -> None:
    now = HOUR_SECONDS
    log, store = MemoryLog("log-1", clock=lambda: now * 10**9), MemoryStore()
    wired = ports(log, store)
    supervisor = Supervisor(wired, ROOMY)
    task = asyncio.create_task(supervisor.run())
    sequence = await append(log, "a", {"put": 1})
    await until(lambda: _reached(supervisor, sequence))
    task.cancel()
    await asyncio.wait({task})
    now += HOUR_SECONDS
    await append(log, "a", {"put": 2})
    now += 2
    await append(log, "a", {"put": 3})
    await supervisor.measure()
    assert _value(wired.metrics.lag_events.labels(shard="0-63")) == 2
    assert _value(wired.metrics.lag_seconds.labels(shard="0-63")) == 2
    assert _value(wired.metrics.log_last_sequence) == sequence + 2
    assert _value(wired.metrics.log_limit_bytes) == math.inf


class _Clustered(MemoryLog):
    """A log on several servers."""

    replicas = Replicas(3, 0, 0, "a")

    async def info(self) -> LogInfo:
        return replace(await super().info(), replicas=self.replicas)


async def test_changes_of_the_leader_are_counted_but_not_its_election() -> None:
    log = _Clustered("log-1")
    wired = ports(log, MemoryStore())
    supervisor, metrics = Supervisor(wired, ROOMY), wired.metrics
    for leader in ("a", "a", "", "b", "", "b"):
        log.replicas = Replicas(1, 1, 1, leader)
        await supervisor.measure()
    assert _values(metrics.log_leader_changes)[0] == 1
    states = ("current", "lagging", "offline")
    assert [_value(metrics.log_replicas.labels(state)) for state in states] == [1, 1, 1]


def _value(gauge: Gauge) -> float:
    return _values(gauge)[0]


def _values(gauge: Gauge | PrometheusCounter) -> list[float]:
    [metric] = gauge.collect()
    return [sample.value for sample in metric.samples]


class _Cut(MemoryLog):
    """A log that can be cut off."""

    is_cut = False

    async def info(self) -> LogInfo:
        if self.is_cut:
            raise LogUnavailable("cut off")
        return await super().info()


@pytest.mark.parametrize("stage", [Stage.working, Stage.standby])
async def test_a_projector_that_does_not_reach_the_log_is_not_ready(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STANDBY_SECONDS", "LAG_SECONDS"):
        monkeypatch.setattr(supervisor_module, name, 0.01)
    now = 0.0
    log, tables = _Cut("log-1"), Tables()
    if stage is Stage.standby:
        assert await MemoryStore(tables).acquire_lease()
        tables.leases[""].renewed_at += HOUR_SECONDS
    wired = replace(ports(log, MemoryStore(tables)), timer=lambda: now)
    supervisor = Supervisor(wired, ROOMY)
    assert not supervisor.is_ready
    task = asyncio.create_task(supervisor.run())

    async def is_ready() -> bool:
        return supervisor.is_ready

    async def is_unready() -> bool:
        nonlocal now
        # A standby asks the log itself; the owner goes on while the log does not answer.
        now += 60 if stage is Stage.working else 0
        return not supervisor.is_ready

    await until(is_ready)
    assert supervisor.stage is stage
    log.is_cut = True
    await until(is_unready)
    assert supervisor.error
    log.is_cut = False
    await until(is_ready)
    assert not supervisor.error
    task.cancel()
    await asyncio.wait({task})


async def test_an_unexpected_error_stops_it_and_is_raised() -> None:
    class Broken(MemoryStore):
        async def acquire_lease(self) -> bool:
            raise ZeroDivisionError

    supervisor = Supervisor(ports(MemoryLog("log-1"), Broken()), ROOMY)
    await supervisor.run()
    assert supervisor.stage is Stage.stopped
    with pytest.raises(ZeroDivisionError):
        supervisor.raise_if_stopped()


async def test_the_pause_grows_only_while_the_error_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "STANDBY_SECONDS", 0.001)
    monkeypatch.setattr(supervisor_module, "BACKOFF_SECONDS_MAX", 3_600)
    causes = iter(range(30))

    class Returning(MemoryStore):
        async def acquire_lease(self) -> bool:
            for cause in causes:
                raise StoreUnavailable(cause=str(cause))
            return await super().acquire_lease()

    supervisor = Supervisor(ports(MemoryLog("log-1"), Returning()), ROOMY)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: _is(supervisor, Stage.working))
    task.cancel()
    await asyncio.wait({task})


async def _reached(supervisor: Supervisor, sequence: int) -> bool:
    return supervisor.committed_sequence >= sequence


class _Silent(MemoryLog):
    """A log that can leave requests for its state unanswered."""

    unanswered = 0
    asked = 0

    async def info(self) -> LogInfo:
        self.asked += 1
        if self.unanswered:
            self.unanswered -= 1
            raise LogUnavailable
        return await super().info()


async def test_one_unanswered_check_of_the_log_does_not_restart_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor_module, "LOG_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(supervisor_module, "LAG_SECONDS", 3_600)
    log, store = _Silent("log-1"), MemoryStore()
    supervisor = Supervisor(ports(log, store), ROOMY)
    task = asyncio.create_task(supervisor.run())
    await until(lambda: _is(supervisor, Stage.working))
    loop = supervisor._loop
    log.unanswered = 1
    asked = log.asked
    await until(lambda: _has_asked(log, asked + 5))
    assert (supervisor.stage, supervisor._loop is loop) == (Stage.working, True)
    # Continued silence is an error.
    log.unanswered = 3
    await until(lambda: _is(supervisor, Stage.waiting))
    task.cancel()
    await asyncio.wait({task})


async def test_a_loop_that_starts_again_keeps_the_age_of_the_last_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("STANDBY_SECONDS", "SHARD_SIGN_SECONDS"):
        monkeypatch.setattr(supervisor_module, name, 0.01)
    log, store = MemoryLog("log-1"), MemoryStore()
    supervisor = Supervisor(ports(log, store), ROOMY)
    task = asyncio.create_task(supervisor.run())
    sequence = await append(log, "a", {"put": 1})
    await until(lambda: _reached(supervisor, sequence))
    loop, acquire = supervisor._loop, store.acquire_lease
    assert supervisor.commit_age_seconds is not None

    async def fail() -> bool:
        store.acquire_lease = acquire  # type: ignore[method-assign]
        raise StoreUnavailable

    store.acquire_lease = fail  # type: ignore[method-assign]
    await until(lambda: _is_another(supervisor, loop))
    assert supervisor.commit_age_seconds is not None
    task.cancel()
    await asyncio.wait({task})


async def _is_another(supervisor: Supervisor, loop: object) -> bool:
    return supervisor._loop is not loop and supervisor.stage is Stage.working


async def _has_asked(log: _Silent, times: int) -> bool:
    return log.asked >= times
