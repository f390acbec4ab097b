"""Tests a whole system against its OpenAPI document: schemathesis with every check enabled.

A command of its own: `PYTHONPATH=tests python tests/acceptance/api_conformance.py [--examples N] [--seed N]
[--url URL]`. Without `--url` it starts a system in a temporary folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from support.conformance import hold_to_openapi
from support.up import Up


@contextmanager
def system(url: str | None) -> Iterator[str]:
    """Yield the given address, or that of a temporary system."""
    if url is not None:
        yield url
        return
    with TemporaryDirectory() as folder:
        up = Up.start(Path(folder) / "data", "--durability", "os")
        try:
            yield up.url
        finally:
            up.stop()


def main() -> int:
    """Read the arguments, run, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url")
    given = parser.parse_args()
    with system(given.url) as url:
        found = hold_to_openapi(url, examples=given.examples, seed=given.seed)
    print(found.said)
    print(
        f"{found.operations} operations, {found.cases:,} cases of which {found.accepted:,} valid ones were accepted: "
        f"{found.failures} failures, {found.errors} errors, in {found.seconds:.0f} s (seed {given.seed})"
    )
    return found.exit_code


if __name__ == "__main__":
    sys.exit(main())
