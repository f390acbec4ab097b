"""Titles, tables and commands of `refold`, as they are printed."""

import asyncio
import os
import sys
from collections.abc import Iterable


def say(title: str, *lines: str) -> None:
    """Print a title, and lines below it."""
    if title:
        print(f"\n▸ {title}")
    for line in lines:
        print(f"  {line}".rstrip())


def table(*rows: Iterable[str]) -> None:
    """Print rows, the first column to the left and all others to the right."""
    texts = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for first, *others in texts:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        say("", "  ".join([first.ljust(widths[0]), *cells]))


async def commands(*lines: str) -> None:
    """Run commands of `refold` one after the other; print each with its output."""
    for line in lines:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "refold", *line.split()),
            env=os.environ | {"COLUMNS": "140"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        say("", f"$ refold {line}", *(f"  {text}" for text in output.decode().splitlines() if text.strip()))
        assert process.returncode == 0, line
