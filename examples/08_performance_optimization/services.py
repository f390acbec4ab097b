"""Run one more service of a system by hand, with settings of its own, as production does."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil

from refold.wiring.service import Listener, hand_work, start_process
from refold.wiring.settings import Settings, handed_on

START_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service."""

    url: str
    process: psutil.Process


@asynccontextmanager
async def running(name: str, settings: Settings, folder: Path, **changes: object) -> AsyncIterator[Service]:
    """Run a gateway or a projector until the end of the block, once it is ready."""
    listener = Listener.choose("127.0.0.1:0")
    process = start_process(name)
    flags = handed_on(
        settings,
        **{"http" if name == "gateway" else "probe": listener.address},
        nats_admin_url=None,
        **changes,
    )
    hand_work(process, folder / f"{name}-{listener.port}.log", flags)
    try:
        await until_ready(listener.url)
        yield Service(url=listener.url, process=psutil.Process(process.pid))
    finally:
        await process.stop()


async def until_ready(url: str, *, not_pid: int = 0) -> None:
    """Wait until a service is ready; where it was killed, another process than before."""
    async with asyncio.timeout(START_SECONDS):
        while (not_pid and psutil.pid_exists(not_pid)) or not await asyncio.to_thread(_is_ready, url):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _is_ready(url: str) -> bool:
    try:
        urlopen(f"{url}/readyz").close()  # noqa: S310 - it is the service.
    except OSError:
        return False
    return True


def process_of(name: str) -> psutil.Process:
    """Return a part of the system; all of them are children of this process."""
    children = psutil.Process().children()
    return next(it for it in children if any(word.endswith(name) for word in it.cmdline()[:4]))


def processor_seconds(*processes: psutil.Process) -> float:
    """Return the processor time that processes have taken, and those that they have started, also the ended ones."""
    seconds = 0.0
    for process in processes:
        seconds += sum(process.cpu_times()[:4])
        for child in process.children():
            # One that has just ended counts for its parent.
            with suppress(psutil.NoSuchProcess):
                seconds += sum(child.cpu_times()[:2])
    return seconds


def resident_bytes(process: psutil.Process) -> int:
    """Return the memory of a process and those that it has started; pages that they share are counted once."""
    size = 0
    for each in (process, *process.children()):
        with suppress(psutil.NoSuchProcess):
            size += each.memory_full_info().pss
    return size


async def metrics_of(url: str) -> dict[str, float]:
    """Return a service's metrics as they are now, by name and labels."""
    await asyncio.sleep(1.1)  # What it answers is up to a second old.
    with await asyncio.to_thread(urlopen, f"{url}/metrics") as response:
        text = response.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w.*) (\S+)$", text, re.MULTILINE)}
