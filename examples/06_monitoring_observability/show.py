"""Titles, lines and commands of `refold`, as they are printed."""

import asyncio
import os
import sys


def say(title: str, *lines: str) -> None:
    """Print a title, and lines below it."""
    if title:
        print(f"\n▸ {title}")
    for line in lines:
        print(f"  {line}".rstrip())


async def command(line: str, *, status: int = 0, lines_max: int = 100) -> str:
    """Run a command of `refold`; print it with the first lines of its output, and check its exit code."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "refold", *line.split()),
        env=os.environ | {"COLUMNS": "140"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    texts = [text for text in output.splitlines() if text.strip()]
    left_out = ["…"] if len(texts) > lines_max else []
    say("", f"$ refold {line}", *(f"  {text}" for text in [*texts[:lines_max], *left_out]))
    assert process.returncode == status, (line, process.returncode, output)
    return output
