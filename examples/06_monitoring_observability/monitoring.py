"""Prometheus and Alertmanager where they are installed, with the rules and the configuration of `infra/`."""

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import yaml

INFRA = Path(__file__).parents[2] / "infra"
PROGRAMS = "prometheus", "prometheus-alertmanager"
START_SECONDS = 120.0
"""Each is ready within this, also where this machine is slow."""


def are_installed() -> bool:
    """Return whether both programs are there."""
    return all(shutil.which(name) for name in PROGRAMS)


@asynccontextmanager
async def running(services: Mapping[str, str], hook: str, folder: Path) -> AsyncIterator[None]:
    """Run both for the block; Prometheus reads all services when it begins, and Alertmanager notifies the hook."""
    prometheus, alertmanager = _configurations(services, hook)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(
            _server("prometheus-alertmanager", alertmanager, folder, "--cluster.listen-address=")
        )
        prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [address]
        address = await stack.enter_async_context(_server("prometheus", prometheus, folder))
        are_read = quote(f"count(up == 1) == {len(services)}")
        await _until(
            lambda: json.loads(_read(f"http://{address}/api/v1/query?query={are_read}"))["data"]["result"]
        )
        yield


def _configurations(services: Mapping[str, str], hook: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `infra/` has, with other addresses and shorter intervals."""
    prometheus = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    prometheus["global"] = dict.fromkeys(prometheus["global"], "1s")
    prometheus["rule_files"] = [str(INFRA / "prometheus" / "rules" / "refold.yml")]
    prometheus["scrape_configs"][0]["static_configs"] = [
        {"targets": [url.removeprefix("http://")], "labels": {"service": name}}
        for name, url in services.items()
    ]
    alertmanager = yaml.safe_load((INFRA / "alertmanager" / "alertmanager.yml").read_text())
    alertmanager["route"] |= {"group_wait": "1s", "group_interval": "2s"}
    for route in alertmanager["route"]["routes"]:
        route["group_wait"] = "1s"
    for receiver in alertmanager["receivers"]:
        receiver["webhook_configs"][0]["url"] = f"{hook}/alertmanager"
    return prometheus, alertmanager


@asynccontextmanager
async def _server(
    name: str, configuration: Mapping[str, Any], folder: Path, *options: str
) -> AsyncIterator[str]:
    """Run a server on a free port for the block, once it is ready; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    file, storage = folder / f"{name}.yml", "storage.tsdb.path" if name == "prometheus" else "storage.path"
    file.write_text(yaml.safe_dump(dict(configuration)))
    process = await asyncio.create_subprocess_exec(
        *(name, f"--config.file={file}", f"--web.listen-address={address}", f"--{storage}={folder / name}"),
        *options,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await _until(lambda: _is_ready(f"http://{address}/-/ready"))
        yield address
    finally:
        process.terminate()
        await process.wait()


async def _until(is_so: Callable[[], object]) -> None:
    """Wait until a server answers as expected."""
    async with asyncio.timeout(START_SECONDS):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110 - there is no event for it.
            await asyncio.sleep(0.1)


def _is_ready(url: str) -> bool:
    try:
        _read(url)
    except OSError:
        return False
    return True


def _read(url: str) -> str:
    with urlopen(url) as response:  # noqa: S310 - it is the server.
        return str(response.read(), "utf-8")
