"""The `refold` command. Its console script and `python -m refold` start here.

Commands import what they need when they run, so that each of them starts quickly.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line. An error of Refold's tree becomes one line on stderr and an exit code."""
    from refold.cli.app import app
    from refold.cli.errors import exiting_clearly

    with exiting_clearly():
        app()
