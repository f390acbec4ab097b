"""A fold in another language (examples/node-fold) passes every vector and folds any log as Refold does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acceptance.foreign_conflicts import differences
from refold.core import json_text
from refold.core.errors import FoldUnknown, Refused
from refold.core.fold import RULES, genesis
from refold.core.stream import Record
from support import node
from support.events import LOGS, START, subject_of
from support.extended import apply, extended_patches
from support.fold2 import inc
from support.json_values import containers, copied
from support.recorded import DATA, recorded_log, shortened

VECTORS = Path(__file__).parents[2] / "schemas" / "vectors"
GENESIS = Record(1, START, subject_of("_refold", "log"), b"", json_text.dumps(genesis("log-1", RULES[1])))

GENESIS_2 = GENESIS._replace(body=json_text.dumps(genesis("log-1", RULES[2])))


def held_to(vectors: Path, *files: str) -> subprocess.CompletedProcess[str]:
    command = [node.program("node"), str(node.FOREIGN_FOLD / "vectors.mjs"), str(vectors), *files]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def rows_of(path: Path) -> int:
    """Count a file's vectors; of fold.json a history is one, a partition, a place, and the chain."""
    found = json.loads(path.read_bytes())
    if isinstance(found, list):
        return len(found)
    return len(found["cases"]) + len(found["partitions"]) + len(found["places"]) + 1


def test_a_fold_in_another_language_passes_every_vector():
    done = held_to(VECTORS)
    counts = {path.relative_to(VECTORS).as_posix(): rows_of(path) for path in VECTORS.rglob("*.json")}
    lines = [f"{name}: {count} of {count}" for name, count in counts.items()]
    whole = f"{sum(counts.values())} of {sum(counts.values())} vectors"
    assert sorted(done.stdout.splitlines()) == sorted([*lines, whole]), done.stdout
    assert done.returncode == 0
    print(f"the foreign fold: {whole}")


def alter(name, row):
    """Change one expectation of a vector minimally."""
    if "rules" in row:
        row["expected"][-1]["version"] += 1
    elif name == "canonical.json":
        row["canonical"] += " "
    elif name == "fold.json":
        row["events"][-1]["expected"]["version"] += 1
    elif name == "names.json":
        row["document"] += "x"
    elif name == "regex.json":
        row["misses"] += row["matches"]
    elif name == "schema.json":
        row["valid"], row["invalid"] = [], [{"state": None, "pointer": "", "keyword": "type"}]
    else:
        row["expected"] = [row["expected"]]


def test_an_altered_vector_does_not_pass(tmp_path):
    for folder in ("fold2", "conflicts"):
        (tmp_path / folder).mkdir()
    for path in VECTORS.rglob("*.json"):
        found = json.loads(path.read_bytes())
        rows = found if isinstance(found, list) else found["cases"]
        del rows[2:]
        alter(path.name, rows[1])
        if rows is not found:
            found |= {"partitions": [["n", "d", 16]], "places": [{"subject": "d", "partition": 50}]}
            found["chain"]["records"][0]["body"] = "{}"
        (tmp_path / path.relative_to(VECTORS)).write_text(json.dumps(found))
    done = held_to(tmp_path)
    assert done.returncode == 1, done.stdout
    lines = re.findall(r"^[a-z0-9_/]+\.json: \d+ of \d+$", done.stdout, re.MULTILINE)
    assert lines == [
        "canonical.json: 1 of 2",
        "rfc6901.json: 1 of 2",
        "rfc6902.json: 1 of 2",
        "rfc7396.json: 1 of 2",
        "fold2/extensions.json: 1 of 2",
        "fold2/names.json: 1 of 2",
        "fold2/regex.json: 1 of 2",
        "fold2/schema.json: 1 of 2",
        "fold2/transactions.json: 1 of 2",
        "fold.json: 1 of 5",
        "conflicts/base.json: 1 of 2",
        "conflicts/first_write_wins.json: 1 of 2",
        "conflicts/last_write_wins.json: 1 of 2",
        "conflicts/merge.json: 1 of 2",
        "conflicts/operations.json: 1 of 2",
        "conflicts/outcome.json: 1 of 2",
        "conflicts/view.json: 1 of 2",
    ]
    assert "17 of 37 vectors" in done.stdout


@st.composite
def extension_vectors(draw: st.DrawFn) -> dict[str, Any]:
    """Return a vector of a random patch with extension operations, with the result that it has here."""
    state = draw(containers())
    raw = draw(extended_patches(state))
    vector = {"comment": json.dumps(raw), "doc": copied(state), "patch": copied(raw)}
    try:
        root, _, effect = apply(state, copied(raw))
    except Refused as refused:
        return {**vector, "error": refused.reason}
    return {**vector, "expected": copied(root), "effect": copied(raw if effect is None else effect)}


@given(rows=st.lists(extension_vectors(), min_size=30, max_size=60))
@settings(max_examples=5)
def test_any_patch_with_extension_operations_has_the_same_result(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("vectors") / "vectors"
    shutil.copytree(VECTORS, folder)
    (folder / "fold2" / "extensions.json").write_bytes(json_text.dumps(rows))
    done = held_to(folder, "fold2/extensions.json")
    assert f"extensions.json: {len(rows)} of {len(rows)}" in done.stdout, done.stdout


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


@pytest.mark.parametrize("seed", range(2))
def test_authors_who_write_at_the_same_time_have_the_same_outcomes_and_states(foreign, seed):
    assert list(differences(foreign, seed, 125)) == []


def test_a_base_is_too_old_at_the_same_version_and_byte(foreign):
    bodies = [{"put": {"n": 0}}, *[inc() for _ in range(1_000)], inc(base=1), inc(base=1)]
    bodies += [*[inc() for _ in range(2_500)], inc(base=2_501), inc(base=2_502)]
    # Bodies since the base of 4 MiB, then of a byte more.
    least, part = len(json_text.dumps({"put": ""})), 2**22 // 5
    for base, more in ((3_503, 0), (3_509, 1)):
        sizes = [part, part, part, part, 2**22 - 4 * part + more]
        bodies += [{"put": "x" * (size - least)} for size in sizes]
        bodies.append({"put": {"n": 0}, "base": base})
    log = [GENESIS_2]
    log += [
        Record(at, START + at, subject_of("n", "d"), b"", json_text.dumps(body))
        for at, body in enumerate(bodies, 2)
    ]
    ours = node.own_fold(log, "log-1")
    assert foreign.fold(log) == ours
    assert [outcome[2] for outcome in ours["outcomes"]].count("base_too_old") == 3
    assert ours["documents"]["n/d"]["version"] == "3514"


@pytest.mark.parametrize("path", sorted(DATA.glob("fold*/*.jsonl")), ids=lambda path: path.stem)
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
    assert b"the log asks for fold 9; this program knows 1, 2" in done.stderr
