"""Lets writers increment one document over HTTP and NATS, and counts: every acknowledged increment once.

A command of its own: `PYTHONPATH=tests python tests/acceptance/hot_document.py [--writers N] [--increments N]`.
It starts the whole system. Half of the writers' connections lose answers and are cut, `--faults` times.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from refold.telemetry.logging import configure
from support.hot_document import Course, increment_all
from support.servers import running_postgres
from support.system import running_system


def measure(given: argparse.Namespace) -> Course:
    """Start a system and let the writers work."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        with (
            running_postgres(path / "postgres") as postgres,
            running_system(postgres, path / "system") as system,
        ):
            course = increment_all(
                system, "n", writers=given.writers, increments=given.increments, faults=given.faults
            )
            return asyncio.run(course)


def main() -> int:
    """Read the arguments, work, compare, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--increments", type=int, default=500, help="of each writer")
    parser.add_argument("--faults", type=int, default=3)
    given = parser.parse_args()
    configure("error", service="hot_document")
    course = measure(given)
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(course.statuses.items()))
    print(
        f"{course.events:,} increments acknowledged ({statuses}), {course.events / course.seconds:,.0f} a second"
    )
    print(
        f"expected {course.sums.total():,}, found {course.final['count']:,}, at version {course.final_version:,}"
    )
    is_right = course.final == {"count": course.sums.total(), "by": course.sums}
    return 0 if is_right and course.final_version == course.events + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
