"""Follow many random changes with the official AG-UI client, and compare its state with what is served.

A command of its own: `PYTHONPATH=tests python -m acceptance.agui [--changes N] [--seed S] [--browser]`. It starts a
system in a temporary folder. The client is in Node, or in a page in Chromium. Prints what the client warned of, such
as a delta that it skipped.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from refold.client import Refold
from support import node
from support.agui_changes import Course, follow_changes
from support.agui_client import PACKAGE, Session, browser, in_node
from support.up import Up


@contextmanager
def system(folder: Path, *arguments: str) -> Iterator[str]:
    """Run a system; yield its address."""
    up = Up.start(folder / "data", "--durability", "os", *arguments)
    try:
        yield up.url
    finally:
        up.stop()


async def follow(url: str, client: Session, *, changes: int, seed: int) -> Course:
    """Follow a document of a running system."""
    async with Refold(url) as refold:
        return await follow_changes(refold, client, namespace="agui", changes=changes, seed=seed)


def main() -> int:
    """Read the arguments, run, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--browser", action="store_true")
    given = parser.parse_args()
    with TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        package = node.installed(PACKAGE, folder / "package")
        if given.browser:
            with (
                browser(package, folder / "profile") as pages,
                system(folder, "--cors-origins", pages.origin) as url,
                pages.page() as client,
            ):
                course = asyncio.run(follow(url, client, changes=given.changes, seed=given.seed))
        else:
            with system(folder) as url, in_node(package) as client:
                course = asyncio.run(follow(url, client, changes=given.changes, seed=given.seed))
    print(*course.faults[:10], sep="\n")
    print(
        f"{course.changes:,} changes, {course.compared} states compared, {len(course.faults)} faults, "
        f"in {course.seconds:.0f} s (seed {given.seed})"
    )
    return 1 if course.faults else 0


if __name__ == "__main__":
    sys.exit(main())
