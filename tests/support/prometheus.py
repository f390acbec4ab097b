"""A real Prometheus on a free port, asked through its API, and Alertmanager. For the tests of rules and dashboards.

Without Prometheus on the machine a test is skipped; in CI it fails.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson

from support.node import lacking
from support.system import free_port
from support.up import until

STOP_SECONDS = 30


class Prometheus:
    """A running server."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self.process = process
        self.log = log

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return `data` of a resource of its API, `/api/v1/PATH`; what it refuses fails the test, with its reason."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, trust_env=False, timeout=30).json()
        assert answer["status"] == "success", f"{parameters}: {answer.get('error')}"
        return answer["data"]

    def query(self, expression: str, **parameters: Any) -> list[dict[str, Any]]:
        """Return the series of an expression now, or at `time`: each with `metric` and `value`."""
        found: list[dict[str, Any]] = self.ask("query", query=expression, **parameters)["result"]
        return found

    def query_range(
        self, expression: str, *, start: float, end: float, step: float = 1
    ) -> list[dict[str, Any]]:
        """Return the series of an expression over a period: each with `metric` and `values`."""
        found = self.ask("query_range", query=expression, start=start, end=end, step=step)
        series: list[dict[str, Any]] = found["result"]
        return series

    def until_scraped(self, targets: int) -> None:
        """Wait until this many targets have answered."""
        until(lambda: sum(it["health"] == "up" for it in self.ask("targets")["activeTargets"]) == targets)


def program(name: str) -> str:
    """Find `prometheus`, `promtool`, `prometheus-alertmanager` or `amtool`."""
    return shutil.which(name) or lacking(f"{name} is not on this machine (Debian package `prometheus`)")


def scraping(
    targets: Mapping[str, str], *, rules: Sequence[Path] = (), interval: str = "1s"
) -> dict[str, Any]:
    """Configure a Prometheus that scrapes services, given as URLs by the name of the process.

    The series have the labels `service`, the name of the process, and `instance`, as in `refold alerts`.
    """
    groups = [
        {"targets": [url.removeprefix("http://")], "labels": {"service": name}}
        for name, url in targets.items()
    ]
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "refold", "static_configs": groups}],
    }


@contextmanager
def running_prometheus(path: Path, configuration: Mapping[str, Any], *options: str) -> Iterator[Prometheus]:
    """Run Prometheus in a folder, with its configuration as a mapping; it ends with the block."""
    address = f"127.0.0.1:{free_port()}"
    options = (f"--storage.tsdb.path={path / 'data'}", "--enable-feature=exemplar-storage", *options)
    with _running("prometheus", path, configuration, address, *options) as process:
        yield Prometheus(f"http://{address}", process, path / "prometheus.log")


@contextmanager
def running_alertmanager(path: Path, configuration: Mapping[str, Any]) -> Iterator[str]:
    """Run Alertmanager in a folder, as Prometheus; yield its address, HOST:PORT."""
    address = f"127.0.0.1:{free_port()}"
    options = (f"--storage.path={path / 'data'}", "--cluster.listen-address=")
    with _running("prometheus-alertmanager", path, configuration, address, *options):
        yield address


@contextmanager
def _running(
    name: str, path: Path, configuration: Mapping[str, Any], address: str, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    path.mkdir(exist_ok=True)
    file, log = path / f"{name}.json", path / f"{name}.log"
    # JSON is YAML.
    file.write_bytes(orjson.dumps(configuration))
    command = [program(name), f"--config.file={file}", f"--web.listen-address={address}", *options]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            until(lambda: _is_ready(f"http://{address}") or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
