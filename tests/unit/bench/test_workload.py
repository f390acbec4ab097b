"""The measured workload: deterministic, valid, and of the requested size."""

import zlib

import orjson
import pytest

from bench.tasks.publish import batch_events
from refold.bench.workload import COUNTER, NAMESPACE, Workload, batches, small_events
from refold.core import json_text
from refold.core.document import ABSENT, Document, Status
from refold.core.fold import RULES, fold
from refold.core.stream import Record, partition_of, stored_subject


def folded(events):
    """Fold events, each of which must be applied; return the documents by name."""
    documents = {}
    for sequence, event in enumerate(events, 1):
        partition = partition_of(NAMESPACE.encode(), event.document.encode())
        document = documents.setdefault(
            event.document, Document(namespace=NAMESPACE, document=event.document, partition=partition)
        )
        subject = stored_subject(partition, NAMESPACE, event.document)
        record = Record(sequence, sequence, subject, b"", event.body)
        outcome = fold(document, record, RULES[1], recorded_at=sequence).outcome
        assert outcome.status is Status.applied, (event, outcome)
    return documents


def test_events_depend_only_on_the_seed():
    first, again, other = (list(Workload(documents=20, seed=seed).events(500)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_event_is_applied_and_states_keep_their_size():
    workload = Workload(documents=20, document_bytes=2_048)
    documents = folded(workload.events(4_000))
    assert len(documents) == 20
    sizes = [len(json_text.dumps(document.state)) for document in documents.values()]
    assert all(1_600 < size < 3_400 for size in sizes), sizes


def test_compressible_events_have_the_size_of_random_ones_and_are_applied():
    sizes = {}
    for kind in ("random", "compressible"):
        events = list(Workload(documents=20, document_bytes=2_048, kind=kind).events(1_000))
        folded(events)
        sizes[kind] = len(b"".join(event.body for event in events)), len(zlib.compress(events[0].body))
    assert sizes["compressible"][0] == pytest.approx(sizes["random"][0], rel=0.05)
    assert sizes["compressible"][1] < sizes["random"][1] / 2


def test_documents_are_put_first_and_changes_are_small_and_of_every_kind():
    workload = Workload(documents=10)
    made, changes = list(workload.puts()), list(workload.events(2_000))
    assert [event.document for event in made] == [workload.name(number) for number in range(10)]
    assert all(b'"put"' in event.body for event in made)
    sizes = sorted(len(event.body) for event in changes)
    assert 80 < sizes[0] < sizes[-1] < 250
    operations = {operation["op"] for event in changes for operation in orjson.loads(event.body)["patch"]}
    assert operations == {"add", "replace", "remove"}


def test_a_counted_event_contains_the_version_it_creates():
    workload = Workload(documents=7, is_counted=True)
    documents = folded(workload.events(600))
    for number in range(7):
        document = documents[workload.name(number)]
        assert document.state is not ABSENT
        assert document.state[COUNTER] == document.version == workload.version(number)


def test_skipping_events_does_not_change_later_ones():
    whole, skipping = Workload(documents=5), Workload(documents=5)
    skipping.skip(30)
    assert list(whole.events(60))[30:] == list(skipping.events(30))


def test_batches_hold_every_event_in_order():
    events = small_events(25, documents=3)
    cut = list(batches(iter(events), 10))
    assert [len(batch) for batch in cut] == [10, 10, 5]
    assert [event for batch in cut for event in batch] == events


@pytest.mark.parametrize(("rate", "size"), [(0, 1_000), (1, 50), (10_000, 250), (128_000, 1_000)])
def test_a_publisher_sends_large_batches_without_a_rate_and_even_ones_at_a_rate(rate, size):
    assert batch_events(rate) == size
