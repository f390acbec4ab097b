"""Follow many random changes with the official AG-UI client in Node, and compare its state with what is served.

A command of its own: `PYTHONPATH=tests python -m acceptance.agui [--changes N] [--seed S] [--url URL]`. Without
`--url` it starts a system in a temporary folder. Prints what the client warned of, such as a delta that it skipped.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from refold.client import Refold
from support import node
from support.agui_changes import Course, follow_changes
from support.agui_client import PACKAGE, in_node
from support.up import Up

NAMESPACE = "agui"


async def follow(url: str, folder: Path, *, changes: int, seed: int) -> Course:
    """Follow a document of a running system."""
    with in_node(node.installed(PACKAGE, folder / "package")) as client:
        async with Refold(url) as refold:
            agui = f"{url}/agui/{NAMESPACE}/d"
            return await follow_changes(
                refold, client, agui=agui, namespace=NAMESPACE, changes=changes, seed=seed
            )


def main() -> int:
    """Read the arguments, run, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        up = None if given.url else Up.start(Path(folder) / "data", "--durability", "os")
        try:
            url = given.url or up.url
            course = asyncio.run(follow(url, Path(folder), changes=given.changes, seed=given.seed))
        finally:
            if up is not None:
                up.stop()
    print(*course.faults[:10], sep="\n")
    print(
        f"{course.changes:,} changes, {course.compared} states compared, {len(course.faults)} faults, "
        f"in {course.seconds:.0f} s (seed {given.seed})"
    )
    return 1 if course.faults else 0


if __name__ == "__main__":
    sys.exit(main())
