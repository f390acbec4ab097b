"""The containers as compose.yaml delivers them, each killed while clients write: run by hand where an engine runs.

`PYTHONPATH=tests python tests/acceptance/delivery.py --compose "docker compose" --rounds 3`; ends with 1 when an
acknowledged write is missing. The images must be available; `--keep` leaves everything running.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

TOP = Path(__file__).parents[2]
SERVICES = ("nats", "postgres", "projector", "gateway")
HEALTHY_SECONDS = 180
PROJECT = "refold-delivery"


class Containers:
    """One project of the engine."""

    def __init__(self, compose: str) -> None:
        self._compose = [*shlex.split(compose), "--project-name", PROJECT]

    def compose(self, *arguments: str) -> str:
        """Run the compose command."""
        return run(*self._compose, *arguments)

    def inspect(self, service: str) -> dict[str, Any]:
        """Inspect a service's container."""
        number = self.compose("ps", "--quiet", service).strip()
        found: dict[str, Any] = json.loads(run("docker", "inspect", number))[0]
        return found

    def kill(self, service: str) -> None:
        """Kill its first process: after `docker kill` the engine would not restart it."""
        os.kill(self.inspect(service)["State"]["Pid"], signal.SIGKILL)

    def until_healthy(self, *services: str) -> float:
        """Wait until all health checks pass; return the seconds it took."""
        started_at = time.monotonic()
        for service in services:
            while (state := self.inspect(service)["State"]).get("Health", {}).get("Status") != "healthy":
                if time.monotonic() > started_at + HEALTHY_SECONDS:
                    sys.exit(f"{service} is not healthy: {json.dumps(state)[-2_000:]}")
                time.sleep(0.25)
        return time.monotonic() - started_at


class Writer(threading.Thread):
    """Puts documents one after another; each has one key and one value that only grows."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._ended = threading.Event()
        self.acknowledged: dict[str, int] = {}
        self.failed = 0

    def run(self) -> None:
        """Write until cancelled."""
        number = 0
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as client:
            while not self._ended.is_set():
                number += 1
                self._put(client, f"d{number % 50}", number)

    def end(self) -> None:
        """Stop writing."""
        self._ended.set()
        self.join()

    def _put(self, client: httpx.Client, document: str, number: int) -> None:
        try:
            answer = client.put(f"/v1/delivery/{document}", json={"number": number})
        except httpx.TransportError:
            self.failed += 1
            time.sleep(0.1)
            return
        if answer.status_code in {200, 201}:
            self.acknowledged[document] = number
        else:
            self.failed += 1


def main() -> int:
    """Start it, kill each container under load, and compare the result with the acknowledged writes."""
    options = arguments()
    containers, url = Containers(options.compose), f"http://{options.gateway}"
    if not (TOP / "infra/docker/secrets").exists():
        run("infra/docker/make-secrets.sh")
    os.environ |= {"GATEWAY_ADDRESS": options.gateway, "NATS_ADDRESS": options.nats}
    containers.compose("up", "--detach", *shlex.split(options.up))
    print(f"all healthy after {containers.until_healthy(*SERVICES):.1f} s")
    show_confinement(containers)
    missing = killed(containers, url, options.rounds)
    containers.compose("down")
    containers.compose("up", "--detach", *shlex.split(options.up))
    print(f"down and up again: healthy after {containers.until_healthy(*SERVICES):.1f} s")
    print(f"versions now: {httpx.get(f'{url}/status', trust_env=False).json()['versions']}")
    if not options.keep:
        containers.compose("down", "--volumes")
    return 1 if missing else 0


def killed(containers: Containers, url: str, rounds: int) -> list[str]:
    """Kill every service `rounds` times; return the documents that lack an acknowledged write."""
    writer = Writer(url)
    writer.start()
    for number in range(rounds):
        for service in SERVICES:
            before = len(writer.acknowledged), writer.failed
            containers.kill(service)
            # The engine needs a moment to see it.
            time.sleep(1)
            seconds = containers.until_healthy(*SERVICES)
            print(f"round {number + 1}: {service} killed; all healthy after {1 + seconds:.1f} s; {before}")
    time.sleep(2)
    writer.end()
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        found = {name: client.get(f"/v1/delivery/{name}").json()["number"] for name in writer.acknowledged}
    # One write may have been stored without an answer, and counts: never less than what was acknowledged.
    missing = [name for name, number in writer.acknowledged.items() if found[name] < number]
    print(
        f"{max(writer.acknowledged.values())} writes, {writer.failed} without an outcome; missing: {missing}"
    )
    return missing


def show_confinement(containers: Containers) -> None:
    """Print what each container may do."""
    for service in SERVICES:
        described = containers.inspect(service)
        host = described["HostConfig"]
        print(
            f"{service}: user {described['Config']['User'] or 'root'}, read-only {host['ReadonlyRootfs']},"
            f" capabilities -{host['CapDrop']} +{host['CapAdd']}, {host['SecurityOpt']}"
        )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compose", default="docker compose")
    parser.add_argument("--up", default="--build", help="given to `up`, such as --no-build")
    parser.add_argument("--gateway", default="127.0.0.1:18080")
    parser.add_argument("--nats", default="127.0.0.1:14222")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--keep", action="store_true")
    return parser.parse_args()


def run(*command: str) -> str:
    """Run a command and return its output."""
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
