"""The parts of the running system: their metrics, their processes."""

import asyncio
from pathlib import Path
from urllib.request import urlopen

import psutil

EXPOSITION_SECONDS = 1.1


async def metrics_of(url: str) -> dict[str, float]:
    """Return a service's metrics as they are now, by name and labels."""
    # What it answers is up to a second old.
    await asyncio.sleep(EXPOSITION_SECONDS)
    text = await asyncio.to_thread(_read, f"{url}/metrics")
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def process_of(name: str) -> psutil.Process:
    """Return a part of the system that this process has started."""
    children = psutil.Process().children()
    return next(it for it in children if any(Path(word).name == name for word in it.cmdline()[:4]))


def _read(url: str) -> str:
    with urlopen(url) as response:  # noqa: S310 - it is the service.
        return str(response.read(), "utf-8")
