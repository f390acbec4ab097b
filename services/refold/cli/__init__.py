"""The `refold` command. Its console script and `python -m refold` come in here.

Everything heavy is imported inside the commands: `refold --help` is to be there at once.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line; an error of our tree is one clear line on stderr and an exit code."""
    from refold.cli.app import app
    from refold.cli.failure import exiting_clearly

    with exiting_clearly():
        app()
