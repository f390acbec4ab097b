"""The bar of whatever takes over a second: on a terminal, and none when piped. Used by the command modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def working() -> Progress:
    """Make a bar on stderr, shown while it is used in a `with` block."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from refold.cli.show import console

    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TextColumn("{task.description}"))
    told = console(is_error=True)
    return Progress(
        *columns, TimeRemainingColumn(), console=told, disable=not told.is_terminal, transient=True
    )
