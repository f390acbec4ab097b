"""Functions and modules stay below their size limits."""

from __future__ import annotations

import ast
import re
from functools import cache
from statistics import median

from support.sources import is_within, modules

MEDIAN_LINES_MAX = 10
MOST_LINES_MAX = 30
MOST_SHARE = 0.9
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 400
CORE_LINES_MAX = 300
NAMELESS = {"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"}


@cache
def functions():
    """Return every function's lines and place, the longest first."""
    return sorted(
        (
            (node.end_lineno - node.lineno + 1, f"{module.at(node)} {node.name}")
            for module in modules()
            for node in ast.walk(module.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
        ),
        reverse=True,
    )


def listed(found):
    return "".join(f"\n{lines:4} lines: {where}" for lines, where in found)


def test_no_function_has_more_than_60_lines():
    over = [found for found in functions() if found[0] > FUNCTION_LINES_MAX]
    assert not over, listed(over)


def test_nine_in_ten_functions_have_at_most_30_lines():
    over = [found for found in functions() if found[0] > MOST_LINES_MAX]
    assert len(over) <= (1 - MOST_SHARE) * len(functions()), listed(over)


def test_half_of_all_functions_have_at_most_10_lines():
    lines = [found[0] for found in functions()]
    assert median(lines) <= MEDIAN_LINES_MAX, f"the median of {len(lines)} functions is {median(lines)} lines"


def test_a_module_has_at_most_400_lines_and_300_in_core():
    over = []
    for module in modules():
        bound = CORE_LINES_MAX if is_within(module.name, "refold.core") else MODULE_LINES_MAX
        lines = len(module.text.splitlines())
        if lines > bound:
            over.append(f"{module.path} has {lines} lines of {bound}")
    assert not over, "\n".join(over)


def test_a_module_docstring_describes_it_and_its_users():
    silent = []
    for module in modules():
        said = ast.get_docstring(module.tree) or ""
        is_entry = module.path.endswith(("__init__.py", "__main__.py"))
        # What it is and who may use it: two sentences, on one line or more.
        if module.tree.body and len(re.findall(r"\.(?:\s|$)|[a-z)`]$", said)) < (1 if is_entry else 2):
            silent.append(f"{module.path}: {said!r}")
    assert not silent, "\n".join(silent)


def test_a_module_name_describes_its_content():
    vague = [
        module.path
        for module in modules()
        if NAMELESS & {word for part in module.name.split(".") for word in part.split("_")}
    ]
    assert not vague, "\n".join(vague)
