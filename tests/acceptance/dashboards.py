"""Draw the dashboards of infra/grafana from a system under load, with Prometheus' data and matplotlib.

A command of its own: `PYTHONPATH=tests python -m acceptance.dashboards [--seconds N] [--into FOLDER]`. It starts
a system and Prometheus in a temporary folder, and needs the extra `bench`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from support.dashboards import FOLDER
from support.drawing import draw
from support.monitored import monitored

WINDOW, RATE_INTERVAL = "20s", "10s"
"""Shorter than in use, as the load is."""


def main() -> None:
    """Read the arguments, run the load, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--into", type=Path, default=Path())
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        monitored(Path(folder), seconds=given.seconds) as found,
    ):
        for path in sorted(FOLDER.glob("*.json")):
            picture = given.into / f"{path.stem}.png"
            draw(found, path.stem, picture, window=WINDOW, rate_interval=RATE_INTERVAL)
            print(picture)


if __name__ == "__main__":
    main()
