"""The fold passes the language-neutral vectors in `schemas/vectors/fold.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refold.core import json_text
from refold.core.document import ABSENT, Document
from refold.core.fold import RULES, fold
from refold.core.stream import Record, chain_link, chain_seed, partition_of, route
from support.events import lines, subject_of

VECTORS = json.loads((Path(__file__).parents[3] / "schemas" / "vectors" / "fold.json").read_text())


def written_out(text):
    """Write out a text that is given as a list of [text, how many times, a mark for the number]."""
    if text is None or isinstance(text, str):
        return text
    return "".join(
        "".join(numbered(part, times, *mark)) if mark else part * times for part, times, *mark in text
    )


def numbered(part, times, mark):
    """Repeat a text, its mark replaced by the number from 1, as long as the mark."""
    return (part.replace(mark, str(number).zfill(len(mark))) for number in range(1, times + 1))


def bytes_of(row, name):
    """Read bytes that are given as text, or in hexadecimal digits."""
    return bytes.fromhex(row["hex"]) if "hex" in row else written_out(row[name]).encode()


def records(case):
    """Read a case's events, repeated ones each for itself, with what is expected of them."""
    subject = subject_of(case["namespace"], case["document"])
    for event in case["events"]:
        headers = lines(*((name, written_out(value)) for name, value in event.get("headers", [])))
        headers = bytes.fromhex(event["headers_hex"]) if "headers_hex" in event else headers
        written = bytes_of(event, "body")
        for n in range(event.get("times", 1)):
            body = written if "hex" in event else written.replace(b"#", str(n + 1).encode())
            yield Record(event["sequence"] + n, int(event["time"]), subject, headers, body), event["expected"]


def found(folded, document, recorded_at, expected):
    """Return an outcome in the format of the vectors."""
    outcome = folded.outcome
    said = {
        "status": outcome.status.name,
        "version": outcome.version,
        "state": None if document.state is ABSENT else json_text.dumps(document.state).decode(),
        "reason": outcome.reason,
        "recorded_at": str(recorded_at),
        "occurred_at": str(folded.occurred_at),
        "effect": None if outcome.effect is None else json_text.dumps(outcome.effect).decode(),
    }
    if outcome.first is not None:
        first = outcome.first
        said["first"] = {"sequence": first.sequence, "status": first.status.name, "version": first.version}
    return {name: said.get(name) for name in expected}


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["comment"])
def test_every_outcome_and_state_equals_its_vector(case):
    partition = partition_of(case["namespace"].encode(), case["document"].encode())
    document = Document(namespace=case["namespace"], document=case["document"], partition=partition)
    recorded_at = 0
    for record, expected in records(case):
        recorded_at = max(recorded_at, record.time)
        folded = fold(document, record, RULES[1], recorded_at=recorded_at)
        texts = {name: written_out(expected[name]) for name in ("state", "effect") if name in expected}
        wanted = {**expected, **texts}
        assert found(folded, document, recorded_at, expected) == wanted, (
            record.sequence,
            folded.outcome.detail,
        )
        size = 0 if expected["state"] is None else len(wanted["state"].encode())
        assert document.size == size
        assert ("reason" in expected) == (folded.outcome.reason != "")
        assert ("first" in expected) == (folded.outcome.first is not None)
        assert ("effect" in expected) == (folded.outcome.effect is not None)


@pytest.mark.parametrize(("namespace", "document", "partition"), VECTORS["partitions"])
def test_the_partition_of_a_document_equals_its_vector(namespace, document, partition):
    assert partition_of(namespace.encode(), document.encode()) == partition


@pytest.mark.parametrize("row", VECTORS["places"])
def test_the_route_of_a_subject_equals_its_vector(row):
    where = route(bytes_of(row, "subject"))
    assert (where.partition, where.reason) == (row["partition"], row.get("reason", ""))
    assert (where.namespace, where.document) == (
        row.get("namespace", ""),
        written_out(row.get("document", "")),
    )


def test_the_chain_equals_its_vector():
    vector = VECTORS["chain"]
    link = chain_seed(vector["log_id"], vector["partition"])
    assert link.hex() == vector["seed"]
    for row in vector["records"]:
        headers = lines(*row["headers"])
        subject, body = row["subject"].encode(), row["body"].encode()
        link = chain_link(link, Record(row["sequence"], int(row["time"]), subject, headers, body))
        assert link.hex() == row["chain"], row["sequence"]
