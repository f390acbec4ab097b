"""The program's own source files, parsed: what the architecture tests count and search."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SERVICES = ROOT / "services"


class Module(NamedTuple):
    """One module: its dotted name, its path from the root of the repository, text and tree."""

    name: str
    path: str
    text: str
    tree: ast.Module

    def at(self, node: ast.AST) -> str:
        """Format a location in it."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


class Import(NamedTuple):
    """One imported module, with its place."""

    module: Module
    name: str
    where: str


@cache
def modules() -> tuple[Module, ...]:
    """Return every module of the package, in the order of their paths."""
    return tuple(_module(path) for path in sorted((SERVICES / "refold").rglob("*.py")))


@cache
def imports() -> tuple[Import, ...]:
    """Return every import at any depth."""
    return tuple(found for module in modules() for found in _imports_of(module))


def is_within(name: str, package: str) -> bool:
    """Return whether a dotted name is the package or below it."""
    return name == package or name.startswith(f"{package}.")


def _imports_of(module: Module) -> Iterator[Import]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, module.at(node)) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.at(node)}: a relative import"
            yield Import(module, node.module or "", module.at(node))


def _module(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    parts = path.relative_to(SERVICES).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, str(path.relative_to(ROOT)), text, ast.parse(text, filename=str(path)))
