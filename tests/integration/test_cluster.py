"""Three NATS servers as infra/nats/cluster configures them, the services on top, and one server killed under load.

`tests/acceptance/cluster.py` runs for longer.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.clustered import clustered

pytestmark = pytest.mark.slow

BEFORE = 16
BESIDE = 8
AFTER = 16
TOGETHER = 200


async def test_a_cluster_keeps_acknowledged_events_and_continues_when_its_leader_is_killed(
    tmp_path: Path, postgres_dsn: str
) -> None:
    async with clustered(tmp_path, postgres_dsn) as cluster:
        for number in range(BEFORE):
            await cluster.write(number)
        leader = await cluster.leader()
        writing = [asyncio.create_task(cluster.write(BEFORE + number)) for number in range(BESIDE)]
        leader.kill()
        await asyncio.gather(*writing)
        for number in range(AFTER):
            await cluster.write(BEFORE + BESIDE + number)
        assert len({number for _, number in cluster.acknowledged.values()}) == BEFORE + BESIDE + AFTER
        await cluster.write_together(TOGETHER)
        assert await cluster.lost() == []
        assert await cluster.leader() is not leader
        await cluster.until_ready()
        assert [service.process.poll() for service in cluster.services.values()] == [None, None]
