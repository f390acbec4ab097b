"""Everything that has a goal, one measurement after another: about ten minutes. Run by `python -m bench goals`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from bench import history, latency, live, read, rebuild, sdk, travel
from bench.report import Report
from bench.system import Options, refuse_url

TRAVEL_EVENTS: Final = 100_000
TRAVEL_READS: Final = 10_000


class Measurement(NamedTuple):
    """A module with `run`, and its plan."""

    module: Any
    plan: Any


def measurements(seconds: float) -> Mapping[str, Measurement]:
    """Return the measurements by name; the history is left out where its file is absent."""
    found = {
        "rebuild": Measurement(rebuild, rebuild.Plan()),
        "live": Measurement(live, live.Plan(seconds=10.0, trial_seconds=5.0, finds_rate=True)),
        "latency": Measurement(latency, latency.Plan(seconds=seconds * 2)),
        "sdk": Measurement(sdk, sdk.Plan(seconds=seconds)),
        "read": Measurement(read, read.Plan(seconds=seconds)),
        "travel": Measurement(travel, travel.Plan(sizes=(TRAVEL_EVENTS,), reads=TRAVEL_READS)),
    }
    return found | ({"history": Measurement(history, history.Plan())} if history.HISTORY.is_file() else {})


async def run(
    options: Options, chosen: Mapping[str, Measurement], folder: Path | None = None
) -> AsyncIterator[Report]:
    """Run each measurement; write its JSON to a folder as soon as it is there."""
    refuse_url(options, "it starts systems of its own")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - nothing else waits.
    for name, (module, plan) in chosen.items():
        options.say(f"{name}:")
        report: Report = await module.run(options, plan)
        if folder is not None:
            (folder / f"{name}.json").write_bytes(orjson.dumps(report.plain()))
        yield report
