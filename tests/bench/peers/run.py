"""Runs the peers and Refold, each alone, and writes the table and the plots of `tests/bench/RESULTS.md`.

A command of its own, never a test: `python tests/bench/peers/run.py`. What it needs is in the extra `bench`, and Node.
"""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import machine
import plots
import report
from install import install, versions
from registry import PEERS, Peer
from servers import serving

HERE = Path(__file__).parent


def main() -> None:
    """Run, collect, render."""
    given = arguments()
    with ExitStack() as endings:
        results = given.results or Path(endings.enter_context(TemporaryDirectory(prefix="refold-results-")))
        for folder in (results, given.out):
            folder.mkdir(parents=True, exist_ok=True)
        failed = asyncio.run(run_all(given, results)) if given.rounds else []
        render(given, results)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def arguments() -> Namespace:
    """Read the command line."""
    parser = ArgumentParser(description=__doc__)
    names = ",".join(peer.name for peer in PEERS)
    parser.add_argument("--rounds", type=int, default=3, help="0: only render --results.")
    parser.add_argument("--events", type=int, default=10_000, help="Events of each way of appending.")
    parser.add_argument("--documents", type=int, default=100, help="Documents they belong to.")
    parser.add_argument("--loads", type=int, default=500, help="Loads of each kind.")
    parser.add_argument(
        "--seconds", type=float, default=8, help="Time limit of each way of appending singly."
    )
    parser.add_argument("--peers", default=names, help=f"Some of {names}.")
    parser.add_argument(
        "--home", type=Path, default=Path.home() / ".cache/refold-peers", help="Environments."
    )
    parser.add_argument("--results", type=Path, help="Folder of rounds; new ones are added.")
    parser.add_argument(
        "--include", type=Path, nargs="*", default=[], help="Files of `python -m bench … --json`."
    )
    parser.add_argument(
        "--before",
        type=Path,
        nargs="*",
        default=[],
        help="The same files of an earlier version, for comparison.",
    )
    parser.add_argument("--out", type=Path, default=HERE.parent, help="Folder of RESULTS.md and the plots.")
    given = parser.parse_args()
    wanted = given.peers.split(",")
    if unknown := set(wanted) - {peer.name for peer in PEERS}:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {names}")
    given.peers = [peer for peer in PEERS if peer.name in wanted]
    return given


async def run_all(given: Namespace, results: Path) -> list[str]:
    """Run every peer once a round; return the names of those that failed."""
    install(given.home)
    failed = []
    for number in range(given.rounds):
        for peer in given.peers:
            print(f"{datetime.now(UTC):%H:%M:%S} round {number + 1}, {peer.title}", flush=True)
            try:
                measured = await run_one(given, peer)
            except Exception as error:  # noqa: BLE001 - the others continue; all failures are listed at the end.
                print(f"{peer.name}: {error!r}", file=sys.stderr, flush=True)
                failed.append(peer.name)
            else:
                stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
                (results / f"{peer.name}-{stamp}.json").write_text(json.dumps(measured, indent=1))
    return failed


async def run_one(given: Namespace, peer: Peer) -> dict[str, Any]:
    """Run a peer on a fresh server, alone."""
    with TemporaryDirectory(prefix="refold-peers-") as folder:
        syncs = machine.syncs_per_second(Path(folder))
        async with serving(peer, Path(folder) / "data", given.home) as address:
            figures = await run_program(given, peer, address)
    return {
        "peer": peer.name,
        "version": versions()[peer.package],
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "work": {name: getattr(given, name) for name in ("events", "documents", "loads", "seconds")},
        "syncs_per_second": syncs,
        "figures": figures,
    }


async def run_program(given: Namespace, peer: Peer, address: str) -> dict[str, float]:
    """Run a peer's program and collect its figures."""
    command = [*interpreter(peer, given.home), str(HERE / peer.program), "--variant", peer.variant]
    command += ["--events", str(given.events), "--documents", str(given.documents)]
    command += [
        "--loads",
        str(given.loads),
        "--seconds",
        str(given.seconds),
        "--address",
        address,
        "--home",
        str(given.home / "npm"),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    figures: dict[str, float] = {}
    try:
        async for line in process.stdout:
            measured = json.loads(line)
            figures[measured["figure"]] = measured["value"]
            print(f"  {measured['figure']:<16}{measured['value']:>16,.1f}", flush=True)
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{peer.program} ended with {process.returncode}")
    return figures


def interpreter(peer: Peer, home: Path) -> list[str]:
    """Return the interpreter of a peer's program: Refold's runs in this environment, the others in their own."""
    if peer.program.endswith(".mjs"):
        return ["node"]
    return [sys.executable if peer.server == "refold" else str(home / "venv/bin/python")]


def render(given: Namespace, results: Path) -> None:
    """Write table and plots."""
    rounds = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    rows = report.rows(PEERS, rounds)
    if not rows:
        sys.exit("there are no results to show")
    goals, before = ([json.loads(path.read_text()) for path in of] for of in (given.include, given.before))
    drawn = plots.draw(rows, given.out)
    text = report.markdown(
        rows, rounds, machine.described(), report.goals_table(goals, before) if goals else "", drawn
    )
    (given.out / "RESULTS.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
