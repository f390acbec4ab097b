"""Node for tests: where it is, a package's dependencies, and the fold that is written in it, fed log by log.

Without Node a test is skipped; in CI it fails.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pytest

from refold.core import json_text
from refold.core.document import ABSENT, Document
from refold.core.fold.window import STEPS, Recent
from refold.core.fold_state import FoldState, WindowNeeded, first_checkpoints
from refold.core.history import NEVER, Entry, Segment
from refold.core.stream import Record

FOREIGN_FOLD = Path(__file__).parents[2] / "examples" / "node-fold"
INSTALL_SECONDS = 300


def program(name: str) -> str:
    """Find `node` or `npm`."""
    return shutil.which(name) or lacking(f"{name} is not on this machine")


def installed(package: Path, into: Path) -> Path:
    """Copy a package and install what it depends on beside it."""
    npm = program("npm")
    shutil.copytree(package, into, ignore=shutil.ignore_patterns("node_modules"))
    quietly = ["--prefer-offline", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
    done = subprocess.run(
        [npm, "install", *quietly],
        cwd=into,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode:
        lacking(f"npm could not install {package.name}: {done.stderr}")
    return into


class ForeignFold:
    """The running fold: reads a log, writes the results."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def fold(self, log: Iterable[Record]) -> dict[str, Any]:
        """Fold a whole log, from its genesis on."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        for record in log:
            requests.write(orjson.dumps(line_of(record)) + b"\n")
        requests.write(b"\n")
        requests.flush()
        found: dict[str, Any] = orjson.loads(answers.readline())
        return found


@contextmanager
def foreign_fold() -> Iterator[ForeignFold]:
    """Start the fold in Node; it ends with its input."""
    command = [program("node"), str(FOREIGN_FOLD / "log.mjs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield ForeignFold(process)


def own_fold(log: Iterable[Record], log_id: str) -> dict[str, Any]:
    """Fold a log by Refold's own fold; return the result in the foreign fold's format."""
    shard = FoldState(first_checkpoints(log_id))
    documents: dict[str, Document] = {}
    entries: dict[str, list[Entry]] = defaultdict(list)
    outcomes: list[Any] = []
    touched: set[int] = set()
    records = list(log)
    shard.members.read(records)
    for record in records:
        where = shard.route(record.subject)
        touched.add(where.partition)
        if where.reason:
            outcomes.append(["rejected", "0", where.reason, 0, str(shard.reject(record, where)), None])
            continue
        key = f"{where.namespace}/{where.document}"
        if key not in documents:
            documents[key] = Document(
                namespace=where.namespace, document=where.document, partition=where.partition
            )
        try:
            entry = shard.fold(record, where, documents[key]).entry
        except WindowNeeded:
            documents[key].recent = Recent(Segment(NEVER, 0, list(entries[key])), documents[key].events)
            entry = shard.fold(record, where, documents[key]).entry
        entries[key].append(entry)
        outcomes.append(_outcome(entry))
    chains = {str(it.partition): it.chain.hex() for it in shard.checkpoints() if it.partition in touched}
    heads = {key: _head(document) for key, document in documents.items()}
    resolved = [entry for history in entries.values() for entry in history if entry.conflict is not None]
    conflicts = {str(entry.sequence): _conflict(entry) for entry in resolved}
    return {"documents": heads, "outcomes": outcomes, "chains": chains, "conflicts": conflicts}


def line_of(record: Record) -> dict[str, Any]:
    """Write a record as the foreign fold reads it."""
    parts = {"subject": record.subject, "headers": record.headers, "body": record.body}
    encoded = {name: base64.b64encode(part).decode() for name, part in parts.items()}
    return {"sequence": record.sequence, "time": str(record.time), **encoded}


def _outcome(entry: Entry) -> list[Any]:
    effect = None if entry.effect is None else entry.effect.decode()
    said = [entry.status.name, str(entry.version), entry.reason]
    return [*said, entry.first_sequence, str(entry.occurred_at), effect]


def _conflict(entry: Entry) -> str:
    """Return what came of a conflict, without what only the fold reads."""
    conflict = json_text.reread(entry.conflict or b"{}")
    conflict.pop(STEPS, None)
    return json_text.dumps(conflict).decode()


def _head(document: Document) -> dict[str, Any]:
    state = None if document.state is ABSENT else json_text.dumps(document.state).decode()
    return {"version": str(document.version), "last_sequence": document.last_sequence, "state": state}


def lacking(why: str) -> NoReturn:
    """Skip the test; in CI, fail it."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
