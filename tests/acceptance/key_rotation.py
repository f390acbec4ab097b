"""Changes the keys of a running system again and again while clients write and read; then opens it with a wrong one.

A command of its own: `PYTHONPATH=tests python tests/acceptance/key_rotation.py [--rounds N] [--rate N] [STORE …]`. What
must hold on each store: no request fails, no read is behind its writer, the projector's loop never starts again; after
each round no value needs an older key, at the end what is stored is equal to the log, and no content is in any file.
With another key of the used number the system does not start, one line names the number, and no file has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import httpx

from refold.store.layers.keyring import KEY_BYTES, KeyFile, Keys
from support.redis_servers import redis_binary, running_redis, valkey_binary
from support.system import free_port
from support.up import Up, run_refold

CANARY: Final = "canary-5f2c81"
WRITERS: Final = 4
DOCUMENTS: Final = 6
"""Documents of each writer."""

VERIFY: Final = ("verify",)
STORES: Final = {
    "files": (VERIFY,),
    "redis": (),
    "postgres": (VERIFY,),
    "redis+postgres": (VERIFY, ("store", "compare", "redis", "postgres")),
}
"""The stores of a system, and the commands that compare what they hold with the log or with each other."""

SECONDS_MAX: Final = 60.0


class Load:
    """Threads that each write their documents in turn, and read them at the newest and at older versions."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._is_over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self.states: dict[str, tuple[int, dict[str, Any]]] = {}
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(WRITERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, writer: int) -> None:
        with httpx.Client(base_url=self._url, timeout=SECONDS_MAX) as client:
            number = 0
            while not self._is_over.is_set():
                name = f"d{writer}-{number % DOCUMENTS}"
                try:
                    self._step(client, name, number)
                except (httpx.HTTPError, AssertionError) as error:
                    self.errors.append(f"{name}: {error!r}"[:300])
                number += 1

    def _step(self, client: httpx.Client, name: str, number: int) -> None:
        version = self.states.get(name, (0, {}))[0] + 1
        state = {"secret": CANARY, "n": number, "text": CANARY * (1 + number % 50)}
        answer = client.put(f"/v1/rotated/{name}", json=state)
        assert answer.is_success, answer.text
        self.states[name] = (version, state)
        self.counts["writes"] += 1
        found = client.get(f"/v1/rotated/{name}")
        assert found.is_success, found.text
        assert found.json() == state
        older = client.get(f"/v1/rotated/{name}?version={max(1, version - number % 20)}")
        assert older.is_success, older.text
        self.counts["reads"] += 2


class System:
    """`refold up` on one store, under the keys of a file."""

    def __init__(self, folder: Path, store: str, stack: ExitStack) -> None:
        self.data, self._keys = folder / "data", folder / "keys.json"
        self.folders = [self.data]
        self._arguments = ["--durability", "os"]
        for name in store.split("+"):
            address = name
            if name == "redis":
                port = free_port()
                settings = ("--port", str(port), "--appendonly", "yes")
                server = stack.enter_context(running_redis(redis_binary() or valkey_binary(), *settings))
                self.folders.append(server.folder)
                address = f"redis://127.0.0.1:{port}"
            self._arguments += ["--store", address]
        self._given = {
            "REFOLD_KEYS": str(self._keys),
            "REFOLD_ENCRYPT": "all",
            "REFOLD_LOG_KEY": secrets.token_hex(32),
        }

    @contextmanager
    def running(self) -> Iterator[Up]:
        """Run it for the block."""
        up = Up.start(self.data, *self._arguments, **self._given)
        try:
            yield up
        finally:
            code = up.stop()
            assert code == 0, up.said()

    def refold(self, *arguments: str, expected: int = 0) -> dict[str, Any]:
        """Run a command; return its JSON."""
        where = () if arguments[:2] in {("keys", "add"), ("keys", "use")} else ("--data", str(self.data))
        done = run_refold(*arguments, *where, "--json", **self._given)
        assert done.returncode == expected, f"{arguments}: {done.stdout}{done.stderr}"
        return dict(json.loads(done.stdout)) if done.stdout else {"error": done.stderr}

    def values(self) -> Counter[int | None]:
        """Count the values of the store by key."""
        counts: Counter[int | None] = Counter()
        for store in self.refold("keys", "status")["stores"]:
            assert "problem" not in store, store
            for it in store["values"]:
                counts[it["key"]] += it["values"]
        return +counts

    def files_with(self, content: bytes) -> list[Path]:
        """Return the files that have a text."""
        return [path for path, found in self.contents().items() if content in found]

    def contents(self) -> dict[Path, bytes]:
        """Return the files of the store and of the system."""
        return {
            path: path.read_bytes()
            for folder in self.folders
            for path in folder.rglob("*")
            if path.is_file() and not path.is_symlink()
        }

    def replace_key(self, number: int) -> None:
        """Put another key under a number."""
        keys = KeyFile(self._keys).read()
        other = {**keys.keys, number: os.urandom(KEY_BYTES)}
        KeyFile(self._keys).write(Keys(used=keys.used, keys=other))

    def refused(self) -> str:
        """Start it; return the only line that it prints before it ends by itself."""
        up = Up(self.data, *self._arguments, "--http", "127.0.0.1:0", "--nats-port", "0", **self._given)
        assert up.process.wait(SECONDS_MAX) == 1, up.said()
        (line,) = up.said().splitlines()
        return line


def rotate(system: System, load: Load, rate: int) -> None:
    """Add a key, rewrite all values, retire the key before."""
    added = system.refold("keys", "add")["key"]
    refused = system.refold("keys", "retire", str(added - 1), expected=1)["error"]
    assert refused.startswith("refold: key_needed"), refused
    written = system.refold("keys", "reencrypt", "--rate", str(rate))["written"]
    left = system.refold("keys", "retire", str(added - 1))
    assert left == {"keys": [added], "used": added}, left
    counts = system.values()
    assert set(counts) == {added}, counts
    load.counts["rotations"] += 1
    load.counts["values rewritten"] += sum(written.values())


def run(store: str, folder: Path, rounds: int, rate: int) -> Counter[str]:
    """Run all of it on one store; return what happened."""
    with ExitStack() as stack:
        system = System(folder, store, stack)
        system.refold("keys", "add")
        with system.running() as up:
            with Load(up.url) as load:
                wait_for(lambda: load.counts["writes"] >= WRITERS * DOCUMENTS * 4)
                for _ in range(rounds):
                    before = load.counts["writes"]
                    rotate(system, load, rate)
                    wait_for(lambda least=before + 50: load.counts["writes"] >= least)
            assert not load.errors, f"{len(load.errors)} errors: {load.errors[:3]}"
            logs = list(system.data.glob("projector*.log"))
            assert logs
            assert not any(b"projector_failed" in log.read_bytes() for log in logs)
            for check in STORES[store]:
                found = system.refold(*check)
                assert found["differences"] == 0, found
        with system.running() as up:
            for name, (version, state) in load.states.items():
                found = httpx.get(f"{up.url}/v1/rotated/{name}", timeout=SECONDS_MAX)
                assert found.is_success, f"{name}: {found.text}"
                assert (found.json(), found.headers["etag"]) == (state, f'"{version}"'), name
            assert set(system.values()) == {rounds + 1}
        assert not system.files_with(CANARY.encode())
        refuse_wrong_key(system, rounds + 1)
        return load.counts


def refuse_wrong_key(system: System, number: int) -> None:
    """Start with another key of the used number."""
    system.replace_key(number)
    before = system.contents()
    line = system.refused()
    assert line.startswith(f"refold: key_wrong: key {number} is not the key {number}"), line
    after = system.contents()
    # PostgreSQL and NATS write files of their own when they start.
    for folder in (system.data / "files", *system.folders[1:]):
        changed = [path for path, found in after.items() if before.get(path) != found]
        assert not [path for path in changed if path.is_relative_to(folder)], changed


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.01)


def main() -> int:
    """Read the arguments, run, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="*", default=list(STORES), metavar="STORE")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rate", type=int, default=2_000)
    given = parser.parse_args()
    for store in given.stores:
        with tempfile.TemporaryDirectory(prefix="refold-key-rotation-") as folder:
            counts = run(store, Path(folder), given.rounds, given.rate)
        print(store, ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
