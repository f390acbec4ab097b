"""Writes the contracts that are generated: `openapi.json` and `asyncapi.json`.

`python -m refold.wiring.schemas [FOLDER]`, by whoever changed a route or a subject; a test holds the files equal.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from refold import __version__
from refold.gateway.app import bare_app
from refold.wiring.asyncapi import asyncapi_document


def main() -> None:
    """Write the files into the folder named, else into `schemas`."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "schemas")
    for name, written in generated().items():
        (folder / name).write_bytes(written)


def generated() -> dict[str, bytes]:
    """Return what each file holds by its name."""
    documents = {
        "openapi.json": bare_app(__version__).openapi(),
        "asyncapi.json": asyncapi_document(__version__),
    }
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return {name: orjson.dumps(document, option=option) for name, document in documents.items()}


if __name__ == "__main__":
    main()
