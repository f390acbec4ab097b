"""Versions: each is a snapshot that can be read, compared and restored; history, export and import."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trip import TRIP

from refold.client import Refold
from refold.transfer import target_file
from refold.transfer.exporter import ExportListener, export
from refold.transfer.importer import ImportListener, import_file

NAMESPACE, DOCUMENT = TRIP
OTHER = "imported"


async def look_back(refold: Refold) -> None:
    """Read the snapshot of a version, compare it with the head, restore it, and take that back."""
    print("\n▸ Every version is a snapshot: read it, compare it, restore it")
    head = await refold.get(*TRIP)
    old = await refold.get(*TRIP, version=2)
    print(f"  version {head.version}  {as_text(head.state)}")
    print(f"  version 2  {as_text(old.state)}")
    patch = await refold.diff(*TRIP, 2, head.version)
    print(f"  from 2 to {head.version} in {len(patch)} operations, the first is {as_text(patch[0])}")

    restored = await refold.revert(*TRIP, 2, actor="ann", type="trip.restored")
    now = await refold.get(*TRIP)
    print(f"  restored as version {restored.version}: equal to version 2: {now.state == old.state}")
    assert now.state == old.state

    undone = await refold.undo(*TRIP, head.version + 1, actor="ben", type="trip.undone")
    now = await refold.get(*TRIP)
    print(f"  undone as version {undone.version}: equal to version {head.version}: {now.state == head.state}")
    assert now.state == head.state


async def read_history(refold: Refold) -> None:
    """List all changes; read the state at the time of one, and who last wrote a value."""
    print("\n▸ The history: who did what, when")
    async for change in refold.history(*TRIP):
        operations = ", ".join(f"{it['op']} {it['path'] or 'all'}" for it in change.patch)
        print(f"  {change.version}  {change.actor}  {change.type:13} {operations}")
        then = await refold.get(*TRIP, at=change.recorded_at)
        assert then.version == change.version, "a time leads to the version of that time"
    async for leaf in refold.blame(*TRIP, path="/stops"):
        print(f"  {leaf.path} is {leaf.value} since version {leaf.version}, by {leaf.actor}")


async def export_and_import(refold: Refold) -> None:
    """Save a document as JSON, and a namespace with all versions as JSON lines; read both back."""
    print("\n▸ Export and import")
    document = await refold.get(*TRIP)
    text = json.dumps(document.state)
    await refold.put(NAMESPACE, "porto", json.loads(text), actor="ben", type="trip.copied")
    assert (await refold.get(NAMESPACE, "porto")).state == document.state
    print(f"  a document: {len(text)} characters of JSON, written as another document")

    with TemporaryDirectory() as folder:
        file = Path(folder, "trips.jsonl.zst")
        async with target_file(file) as target:
            to_file = ExportListener(progress=lambda _: None, waiting=print)
            exported = await export(refold, NAMESPACE, target.write, to_file, is_history=True)
        print(f"  a namespace: {exported.lines} versions of {exported.documents} documents to {file.name}")
        from_file = ImportListener(refused=print, progress=lambda _: None, waiting=print)
        await import_file(refold, OTHER, file, from_file)
    names = [name async for name in refold.names(NAMESPACE)]
    for name in names:
        assert await all_versions(refold, OTHER, name) == await all_versions(refold, NAMESPACE, name)
    print(
        f"  imported as {OTHER}/: {' and '.join(names)} have the same states, times and authors at each version"
    )


async def all_versions(refold: Refold, namespace: str, name: str) -> list[tuple[Any, ...]]:
    """Return what an import restores of each version."""
    return [
        (change.version, change.occurred_at, change.actor, change.type, document.state)
        async for change in refold.history(namespace, name)
        for document in [await refold.get(namespace, name, version=change.version)]
    ]


def as_text(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False)
