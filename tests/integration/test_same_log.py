"""Stores of every kind that folded one log on their own give the same answers."""

from __future__ import annotations

import pytest

from acceptance.same_log import run

pytestmark = pytest.mark.slow


async def test_every_store_answers_the_same_about_one_log(tmp_path, postgres_dsn, redis_url):
    found = await run(tmp_path, postgres_dsn, redis_url, events=5_000, replayed=500)
    assert not found.differences, found.differences[:5]
    for kind in ("postgres", "files", "redis"):
        for name in ("heads", "entries", "bases", "versions", "duplicates", "rejections"):
            assert found.counts[f"{kind} {name}"], (kind, name)
    assert found.counts["postgres entries"] == found.counts["files entries"] > 5_000
    assert found.counts["redis versions not kept"] > 1_000
    assert found.counts["replayed"] == 500
