"""A fold in another language (examples/node-fold) passes every vector and folds any log as Refold does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings

from refold.core import json_text
from refold.core.errors import FoldUnknown
from refold.core.fold import genesis
from refold.core.stream import Record
from support import node
from support.events import LOGS, START, subject_of
from support.recorded import DATA, recorded_log, shortened

VECTORS = Path(__file__).parents[2] / "schemas" / "vectors"
GENESIS = Record(1, START, subject_of("_refold", "log"), b"", json_text.dumps(genesis("log-1")))


def held_to(vectors: Path) -> subprocess.CompletedProcess[str]:
    command = [node.program("node"), str(node.FOREIGN_FOLD / "vectors.mjs"), str(vectors)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def rows_of(path: Path) -> int:
    """Count a file's vectors; of fold.json a history is one, a partition, a place, and the chain."""
    found = json.loads(path.read_bytes())
    if isinstance(found, list):
        return len(found)
    return len(found["cases"]) + len(found["partitions"]) + len(found["places"]) + 1


def test_a_fold_in_another_language_passes_every_vector():
    done = held_to(VECTORS)
    counts = {path.name: rows_of(path) for path in VECTORS.glob("*.json")}
    lines = [f"{name}: {count} of {count}" for name, count in counts.items()]
    whole = f"{sum(counts.values())} of {sum(counts.values())} vectors"
    assert sorted(done.stdout.splitlines()) == sorted([*lines, whole]), done.stdout
    assert done.returncode == 0
    print(f"the foreign fold: {whole}")


def alter(name, row):
    """Change one expectation of a vector minimally."""
    if name == "canonical.json":
        row["canonical"] += " "
    elif name == "fold.json":
        row["events"][-1]["expected"]["version"] += 1
    else:
        row["expected"] = [row["expected"]]


def test_an_altered_vector_does_not_pass(tmp_path):
    for path in VECTORS.glob("*.json"):
        found = json.loads(path.read_bytes())
        rows = found if isinstance(found, list) else found["cases"]
        del rows[2:]
        alter(path.name, rows[1])
        if rows is not found:
            found |= {"partitions": [["n", "d", 16]], "places": [{"subject": "d", "partition": 50}]}
            found["chain"]["records"][0]["body"] = "{}"
        (tmp_path / path.name).write_text(json.dumps(found))
    done = held_to(tmp_path)
    assert done.returncode == 1, done.stdout
    lines = re.findall(r"^[a-z0-9]+\.json: \d+ of \d+$", done.stdout, re.MULTILINE)
    assert lines == [
        "canonical.json: 1 of 2",
        "rfc6901.json: 1 of 2",
        "rfc6902.json: 1 of 2",
        "rfc7396.json: 1 of 2",
        "fold.json: 1 of 5",
    ]
    assert "5 of 13 vectors" in done.stdout


@pytest.fixture(scope="module")
def foreign():
    with node.foreign_fold() as running:
        yield running


@given(log=LOGS)
@settings(max_examples=60)
def test_any_log_has_the_same_outcomes_states_and_chain(foreign, log):
    whole = [GENESIS, *(record._replace(sequence=record.sequence + 1) for record in log)]
    try:
        ours = node.own_fold(whole, "log-1")
    except FoldUnknown as unknown:
        whole = whole[: unknown.facts["sequence"] - 1]
        ours = node.own_fold(whole, "log-1")
    assert foreign.fold(whole) == ours


@pytest.mark.parametrize("path", sorted((DATA / "fold1").glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_recorded_log_has_its_recorded_result(foreign, path):
    log = recorded_log(path)
    found = foreign.fold(log.records)
    assert found["outcomes"] == log.outcomes
    assert found["chains"] == log.chains
    heads = {key: {**head, "state": shortened(head["state"])} for key, head in found["documents"].items()}
    assert heads == log.documents


FOLD_9 = b'{"put":{"fold":9}}'
MOVED_ON = [
    GENESIS,
    Record(2, START, subject_of("_refold", "fold"), b"", FOLD_9),
    Record(3, START, subject_of("n", "d"), b"", b'{"put":1}'),
]
GENESIS_9 = GENESIS._replace(body=GENESIS.body.replace(b'"fold":1', b'"fold":9'))


@pytest.mark.parametrize("log", [MOVED_ON, [GENESIS_9]], ids=["moved on", "made so"])
def test_an_unknown_fold_number_stops_it_with_an_error(log):
    lines = b"".join(json_text.dumps(node.line_of(record)) + b"\n" for record in log)
    command = [node.program("node"), str(node.FOREIGN_FOLD / "log.mjs")]
    done = subprocess.run(command, input=lines, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"the log asks for fold 9; this program knows 1" in done.stderr
