"""The published contracts in `schemas/`: validators of the JSON Schemas, read as ECMA-262 and 2020-12 have them.

For tests that compare the running system or the core with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from support.sources import ROOT

FOLDER = ROOT / "schemas"


@cache
def contract(name: str) -> dict[str, Any]:
    """Read one of the files, once."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.load(text, yaml.CSafeLoader) if name.endswith(".yaml") else json.loads(text)
    return found


def validator(schema: dict[str, Any]) -> Any:
    """Make a validator of a schema, which may refer to the files by their names."""
    return _Validator(schema, registry=_registry())


@cache
def _registry() -> Registry[Any]:
    names = [path.name for path in FOLDER.iterdir() if path.suffix in {".json", ".yaml"}]
    return (
        Registry().with_resources([(name, Resource(contract(name), DRAFT202012)) for name in names]).crawl()
    )


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    # Python's `$` also matches before a final line feed; ECMA-262's does not.
    if isinstance(instance, str) and not re.search(pattern.removesuffix("$") + r"\Z", instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = extend(Draft202012Validator, {"pattern": _pattern})
