"""The core has no clock, no randomness, no I/O and no drivers: it imports nothing that could bring them in."""

from __future__ import annotations

import ast
import builtins
import sys
from functools import cache

from support.sources import imports, is_within, modules

PURE = {
    "__future__",
    "bisect",
    "collections",
    "collections.abc",
    "contextlib",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "operator",
    "re",
    "struct",
    "typing",
    "urllib.parse",
}
"""The modules of the standard library without side effects."""

IMPURE_BUILTINS = {
    "open",
    "print",
    "input",
    "eval",
    "exec",
    "compile",
    "__import__",
    "breakpoint",
    "id",
    "hash",
}
"""`hash` and `id` differ from run to run."""

CLOCKS = {"now", "utcnow", "today", "fromtimestamp"}
"""The methods of `datetime` that read the clock or the time zone."""


@cache
def core():
    """Return the core's modules."""
    return [module for module in modules() if is_within(module.name, "refold.core")]


def test_the_core_imports_only_pure_modules_the_json_parser_and_itself():
    strange = [
        f"{found.where} imports {found.name}"
        for found in imports()
        if found.module in core()
        and found.name not in PURE
        and found.name != "orjson"
        and not is_within(found.name, "refold.core")
    ]
    assert not strange, "\n".join(strange)


def test_the_allowed_modules_are_standard_library_and_all_used():
    assert {name.split(".")[0] for name in PURE} <= sys.stdlib_module_names
    used = {found.name for found in imports() if found.module in core()}
    assert not PURE - used, f"the core no longer imports {sorted(PURE - used)}"


def listed(is_strange):
    """List every occurrence in the core that is not allowed."""
    nodes = ((module, node) for module in core() for node in ast.walk(module.tree))
    return "\n".join(
        f"{module.at(node)}: {ast.unparse(node)[:80]}" for module, node in nodes if is_strange(node)
    )


def is_impure_call(node):
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in IMPURE_BUILTINS
    return isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS


def test_the_core_calls_nothing_with_side_effects_or_nondeterminism():
    assert set(dir(builtins)) >= IMPURE_BUILTINS
    assert not listed(is_impure_call), listed(is_impure_call)


def test_the_core_is_not_asynchronous_and_keeps_no_state_in_its_modules():
    strange = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Global)
    found = listed(lambda node: isinstance(node, strange))
    assert not found, found
