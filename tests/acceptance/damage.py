"""Damages a file of a stopped system, or a table of a running one, and reports when and how that is noticed.

A command of its own: `python tests/acceptance/damage.py [--only TEXT] [--table FILE.md]`. Every case works on a copy of
the same data folder and must not change the log: each block unchanged, or its content before the start kept.
Exits with 1 where a block was lost, or where a reader was given a wrong answer.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.up import READY_SECONDS, Up, run_refold, until

DOCUMENTS = 20
VERSIONS_OLDER = 220
VERSIONS = 300
NOISE_BYTES = 1_000
STREAM = "nats/jetstream/$G/streams/STATE"
CLUSTER = "postgres/cluster"
TABLES = (
    "log",
    "migrations",
    "shards",
    "checkpoints",
    "documents",
    "journal",
    "pages",
    "rejections",
    "namespaces",
)
MEND = "refold rebuild --from-nothing"
FLAGS = ("--http", "127.0.0.1:0", "--nats-port", "0", "--durability", "os")

States = dict[str, list[object]]
"""By document, its states by version, from version 1."""


@dataclass
class Seen:
    """The result of one case."""

    case: str
    when: list[str] = field(default_factory=list)
    said: str = ""
    right: int = 0
    refused: int = 0
    wrong: int = 0
    back: str = ""
    log: str = "unchanged"

    def row(self) -> str:
        """Return the table's line."""
        answers = f"{self.right} right, {self.refused} refused, {self.wrong} wrong"
        said, back = (" ".join(text.replace("|", "\\|").split()) for text in (self.said, self.back))
        when = ", ".join(self.when) or "nothing is wrong"
        return f"| {self.case} | {when} | {said} | {answers} | {back} | {self.log} |"


# --- The base ------------------------------------------------------------------------------------


def write(up: Up, states: States, until_version: int) -> None:
    """Write every document up to a version; one event in fifty is rejected."""
    while len(states["d0"]) < until_version:
        version = len(states["d0"]) + 1
        lines = []
        for at in range(DOCUMENTS):
            state = {"version": version, "noise": os.urandom(NOISE_BYTES).hex()}
            states[f"d{at}"].append(state)
            lines.append({"doc": f"d{at}", "put": state})
        if version % 50 == 0:
            lines.append({"doc": "d0", "patch": [{"op": "test", "path": "/version", "value": "no"}]})
        body = "\n".join(map(json.dumps, lines)).encode()
        answer = httpx.post(
            f"{up.url}/v1/n/events",
            content=body,
            headers={"Content-Type": "application/x-ndjson"},
            timeout=60,
        )
        assert answer.text.count('"applied"') == DOCUMENTS, answer.text[:500]


def make_base(folder: Path) -> States:
    """Make `older` and `now`, two clean stops of the same system."""
    states: States = {f"d{at}": [] for at in range(DOCUMENTS)}
    for name, version in (("older", VERSIONS_OLDER), ("now", VERSIONS)):
        up = Up.start(folder / "data", "--durability", "os")
        write(up, states, version)
        assert up.stop() == 0
        copy(folder / "data", folder / name)
    shutil.rmtree(folder / "data")
    return states


def copy(source: Path, target: Path) -> None:
    """Copy a folder with its file owners."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    for path in (source, *source.rglob("*")):
        owner = path.lstat()
        os.chown(target / path.relative_to(source), owner.st_uid, owner.st_gid, follow_symlinks=False)


def relations(folder: Path) -> dict[str, str]:
    """Return each table's file, by the table's name."""
    copy(folder / "now", folder / "case")
    up = Up.start(folder / "case", *FLAGS[4:])
    try:
        return dict(asyncio.run(_fetch(up, _RELATIONS)))
    finally:
        up.stop()


_RELATIONS = """
SELECT relname, pg_relation_filepath(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'refold'::regnamespace
"""


async def _fetch(up: Up, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(up.endpoints()["postgres"])
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


# --- The damages ---------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    with path.open("r+b") as file:
        at = path.stat().st_size // 2
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]) if byte else b"\x01")


def cut(path: Path) -> None:
    """Keep the first half."""
    os.truncate(path, path.stat().st_size // 2)


def at_rest(folder: Path, files: dict[str, str]) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield every case of a stopped system: each file deleted, cut, flipped, replaced by its older copy."""

    def replace(name: str) -> Callable[[Path], None]:
        def act(data: Path) -> None:
            older, target = folder / "older" / name, data / name
            owner = target.stat()
            shutil.copy2(older, target)
            os.chown(target, owner.st_uid, owner.st_gid)

        return act

    def on(name: str, act: Callable[[Path], None]) -> Callable[[Path], None]:
        return lambda data: act(data / name)

    for shown, name in files.items():
        yield f"{shown}: deleted", on(name, Path.unlink)
        yield f"{shown}: cut in half", on(name, cut)
        yield f"{shown}: one bit flipped", on(name, flip)
        if (folder / "older" / name).exists():
            yield f"{shown}: an older copy", replace(name)
    for shown, name in {
        "the stream's folder": STREAM,
        "all of NATS": "nats",
        "all of PostgreSQL": "postgres",
    }.items():
        yield f"{shown}: deleted", on(name, shutil.rmtree)
        if name != STREAM:
            yield (
                f"{shown}: an older copy",
                lambda data, name=name: copy(folder / "older" / name, data / name),
            )


# --- Observations --------------------------------------------------------------------------------


def blocks(data: Path) -> dict[str, str]:
    """Return the digests of the log's blocks."""
    found = sorted((data / STREAM / "msgs").glob("*.blk"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found if path.is_file()}


def hold_log(seen: Seen, data: Path, before: dict[str, str]) -> None:
    """Compare the blocks with those after the damage and before the start."""
    kept = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (data / "nats/damaged").rglob("*.blk")}
    after = blocks(data)
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    lost = [name for name in changed if before[name] not in kept]
    if lost:
        seen.log = f"LOST {', '.join(lost)}"
    elif changed:
        seen.log = f"{', '.join(changed)} changed by nats-server, kept as before"


def read(seen: Seen, up: Up, states: States) -> None:
    """Read the newest and five older versions of every document."""
    with httpx.Client(base_url=up.url, timeout=30) as client:
        for document, versions in states.items():
            for version in (None, 1, 60, 130, 200, len(versions)):
                answer = _answer(client, document, version)
                if answer is None or answer.status_code >= 500:
                    seen.refused += 1
                    _note(seen, "read", "" if answer is None else answer.text)
                elif answer.status_code == 200 and answer.json() == versions[(version or len(versions)) - 1]:
                    seen.right += 1
                else:
                    seen.wrong += 1


def _answer(client: httpx.Client, document: str, version: int | None) -> httpx.Response | None:
    try:
        return client.get(f"/v1/n/{document}" + (f"?version={version}" if version else ""))
    except httpx.TransportError:
        return None


def _note(seen: Seen, when: str, said: str) -> None:
    if when not in seen.when:
        seen.when.append(when)
    if not seen.said and said:
        try:
            problem = json.loads(said)
            said = f"`{problem['code']}`: {problem['detail']}"
        except (ValueError, KeyError, TypeError):
            pass
        seen.said = said.strip()[:300]


def check(seen: Seen, up: Up) -> None:
    """Run `readyz` and `verify`."""
    ready = httpx.get(f"{up.url}/readyz", timeout=30)
    if ready.status_code != 200:
        _note(seen, "readyz", ready.text)
    verified = run_refold("verify", "--data", str(up.data))
    if verified.returncode:
        _note(seen, "verify", verified.stdout + verified.stderr)


def start(seen: Seen, data: Path) -> Up | None:
    """Start the system; return None if it exits by itself or waits for a manual repair."""
    up = Up(data, *FLAGS)
    until(
        lambda: (data / "endpoints.json").exists() or up.process.poll() is not None or MEND in up.said(),
        seconds=2 * READY_SECONDS,
    )
    if (data / "endpoints.json").exists() and up.process.poll() is None:
        return up
    said = up.said()
    _note(seen, "start", said[max(said.rfind("refold: "), said.rfind("waiting ")) :])
    if up.process.poll() is None:
        up.stop()
    return None


def rebuild(seen: Seen, data: Path, states: States) -> None:
    """Rebuild the projection from the log, and read everything."""
    rebuilt = run_refold("rebuild", "--from-nothing", "--data", str(data))
    if rebuilt.returncode:
        seen.back = f"rebuild --from-nothing: {(rebuilt.stdout + rebuilt.stderr).strip()[:150]}"
        return
    up = start(after := Seen(seen.case), data)
    if up is None:
        seen.back = f"rebuilt, but: {after.said}"
        return
    read(after, up, states)
    verified = run_refold("verify", "--data", str(data))
    up.stop()
    is_whole = not (after.refused or after.wrong or verified.returncode)
    seen.back = (
        "rebuild --from-nothing: whole again"
        if is_whole
        else f"rebuilt, but {after.row()} {verified.stdout[:100]}"
    )


def rest_case(folder: Path, states: States, name: str, act: Callable[[Path], None]) -> Seen:
    """Damage a copy of the stopped system, start it, look."""
    seen, data = Seen(name), folder / "case"
    copy(folder / "now", data)
    act(data)
    before = blocks(data)
    up = start(seen, data)
    if up is not None:
        try:
            read(seen, up, states)
            check(seen, up)
        finally:
            if up.process.poll() is None:
                up.stop()
    hold_log(seen, data, before)
    if seen.when and "log_" not in seen.said:
        rebuild(seen, data, states)
        hold_log(seen, data, before)
    return seen


def live_case(folder: Path, states: States, table: str, statement: str) -> Seen:
    """Damage a table of a running system, look, start it again, look."""
    seen, data = Seen(f"{table}: {statement.split(maxsplit=1)[0].lower()}"), folder / "case"
    copy(folder / "now", data)
    before = blocks(data)
    up = start(seen, data)
    assert up is not None, seen.said
    try:
        asyncio.run(_fetch(up, statement))
        read(seen, up, states)
        if up.process.poll() is None:
            check(seen, up)
    finally:
        if up.process.poll() is None:
            up.stop()
    again = start(seen, data)
    if again is not None:
        check(seen, again)
        again.stop()
    hold_log(seen, data, before)
    if seen.when:
        rebuild(seen, data, states)
        hold_log(seen, data, before)
    return seen


def cases(folder: Path, states: States) -> Iterator[tuple[str, Callable[[], Seen]]]:
    """Yield every case by its name."""
    names = relations(folder)
    newest_wal = max(path.name for path in (folder / "now" / CLUSTER / "pg_wal").iterdir() if path.is_file())
    files = {
        "NATS: meta.inf": f"{STREAM}/meta.inf",
        "NATS: meta.sum": f"{STREAM}/meta.sum",
        "NATS: 1.blk (sealed)": f"{STREAM}/msgs/1.blk",
        "NATS: 2.blk (open)": f"{STREAM}/msgs/2.blk",
        "NATS: index.db": f"{STREAM}/msgs/index.db",
        "folder: log.json": "log.json",
        "folder: secrets.json": "secrets.json",
        "folder: children.json": "children.json",
        "PostgreSQL: pg_control": f"{CLUSTER}/global/pg_control",
        "PostgreSQL: newest WAL file": f"{CLUSTER}/pg_wal/{newest_wal}",
        "PostgreSQL: pg_xact": f"{CLUSTER}/pg_xact/0000",
        **{f"PostgreSQL: table {table}": f"{CLUSTER}/{names[table]}" for table in TABLES if table in names},
    }
    for name, act in at_rest(folder, files):
        yield name, lambda name=name, act=act: rest_case(folder, states, name, act)
    for table in TABLES:
        for statement in (f"DROP TABLE refold.{table} CASCADE", f"TRUNCATE refold.{table}"):
            yield (
                f"table {table}: {statement.split()[0].lower()}",
                lambda table=table, statement=statement: live_case(
                    folder, states, f"table {table}", statement
                ),
            )


def main() -> int:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    found: list[Seen] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        states = make_base(folder)
        assert len(blocks(folder / "now")) == 2
        for name, run in cases(folder, states):
            if asked.only in name:
                found.append(run())
                print(found[-1].row(), flush=True)
    if asked.table:
        lines = [
            "| damaged | detected by | message | answers before | repair | the log |",
            "| --- | --- | --- | --- | --- | --- |",
            *(seen.row() for seen in found),
        ]
        asked.table.write_text("\n".join(lines) + "\n")
    bad = [seen.case for seen in found if seen.wrong or "LOST" in seen.log]
    print(f"{len(found)} cases, {len(bad)} bad: {bad}")
    return 1 if bad or not found else 0


if __name__ == "__main__":
    sys.exit(main())
