"""The conformance vectors under `schemas/vectors`, read as any implementation would read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refold.core import json_text

_FOLDER = Path(__file__).parents[2] / "schemas" / "vectors"


def vectors(name: str) -> list[Any]:
    """Return a file's vectors as pytest parameters, each under its comment."""
    rows = json_text.loads((_FOLDER / name).read_bytes())
    return [pytest.param(row, id=f"{number}: {row['comment']}") for number, row in enumerate(rows)]
