"""Tasks that read over HTTP, for `bench.worker`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import orjson

from bench.load import Response, get_request, keep_in_flight
from bench.signals import Signals
from refold.bench.workload import COUNTER


async def read_each(signals: Signals, *, url: str, paths: Sequence[str], in_flight: int) -> dict[str, Any]:
    """Read every path once, in order; return the facts of each state and its headers."""
    requests = enumerate([get_request(url, path) for path in paths])
    loaded = await keep_in_flight(url, requests, in_flight, kept=len(paths), prepared=signals.until_go)
    answers = [_facts(loaded.responses[number]) for number in range(len(paths))]
    return {"milliseconds": loaded.milliseconds, "seconds": loaded.seconds, "answers": answers}


async def read_for(
    signals: Signals, *, url: str, paths: Sequence[str], in_flight: int, seconds: float
) -> dict[str, Any]:
    """Read the paths repeatedly for some time; every status must be 200."""
    requests = enumerate(cycle([get_request(url, path) for path in paths]))
    loaded = await keep_in_flight(url, requests, in_flight, seconds=seconds, prepared=signals.until_go)
    return {"milliseconds": loaded.milliseconds, "seconds": loaded.seconds}


def _facts(response: Response) -> dict[str, Any]:
    return {
        "version": int(response.header(b"refold-version")),
        "recorded_at": response.header(b"refold-recorded-at").upper(),
        "counter": orjson.loads(response.body)[COUNTER],
    }
