"""What no file may contain, and where SQL is stored."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections import Counter, defaultdict

import pytest

from support.sources import ROOT, SERVICES, modules

# Written in halves, so that this file does not hold them.
REGISTRIES = [
    ".".join(halves)
    for halves in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("proxy.golang", "org"),
        ("crates", "io"),
        ("rubygems", "org"),
        ("anaconda", "org"),
        ("docker", "io"),
        ("quay", "io"),
        ("ghcr", "io"),
    ]
]
UNFINISHED = re.compile("|".join(rf"\b{a}{b}\b" for a, b in [("TO", "DO"), ("FIX", "ME"), ("XX", "X")]))

_NAMED = re.compile(r"^-- name: (.*)$", re.MULTILINE)
_STATEMENT = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|COPY|CREATE|ALTER|DROP|WITH|TRUNCATE)\s.*\b"
    r"(FROM|INTO|SET|TABLE|INDEX|AS|FUNCTION)\b",
    re.DOTALL,
)


def tracked_files():
    """List the files that git tracks or would track; without git, all but the usual ignored folders."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("only a git checkout knows its tracked files")
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def lines_of(path):
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return []


def found_in_files(pattern):
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        for number, line in enumerate(lines_of(path), 1)
        if pattern.search(line)
    ]


def test_no_file_names_the_host_of_a_package_registry():
    hosts = re.compile("|".join(rf"(?<![\w-]){re.escape(host)}\b" for host in REGISTRIES))
    found = found_in_files(hosts)
    assert not found, "\n".join(found)


def test_no_file_has_a_todo():
    found = found_in_files(UNFINISHED)
    assert not found, "\n".join(found)


def sections():
    """Yield each file of statements: its path, the text before the first name, and the named statements."""
    for path in sorted(SERVICES.rglob("queries*.sql")):
        preamble, *named = _NAMED.split(path.read_text(encoding="utf-8"))
        yield path.relative_to(ROOT), preamble, list(zip(named[::2], named[1::2], strict=True))


def without_comments(text):
    return re.sub(r"--[^\n]*", "", text).strip()


def test_every_sql_statement_is_named_once():
    for path, preamble, named in sections():
        assert not without_comments(preamble), f"{path}: a statement without a name"
        repeated = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
        assert not repeated, f"{path}: {repeated}"
        for name, text in named:
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name), f"{path}: {name!r}"
            assert without_comments(text), f"{path}: {name} is empty"
            assert ";" not in without_comments(text), f"{path}: {name} holds more than one statement"


def test_every_sql_file_is_a_file_of_named_statements_or_a_numbered_migration():
    numbers = defaultdict(list)
    for path in sorted(SERVICES.rglob("*.sql")):
        if path.name.startswith("queries"):
            continue
        numbered = re.fullmatch(r"(\d{4})_[a-z0-9_]+\.sql", path.name)
        assert numbered, f"{path.relative_to(ROOT)} is neither"
        assert path.parent.name == "migrations", path
        numbers[path.parent].append(int(numbered[1]))
    for folder, found in numbers.items():
        assert found == list(range(found[0], found[0] + len(found))), folder


def strings():
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield module.at(node), node.value


def test_every_named_statement_is_used():
    said = Counter(text for _, text in strings())
    unused = [f"{path}: {name}" for path, _, named in sections() for name, _ in named if not said[name]]
    assert not unused, "\n".join(unused)


def test_sql_is_only_in_sql_files():
    found = [f"{where}: {text.strip()[:80]!r}" for where, text in strings() if _STATEMENT.match(text)]
    assert not found, "\n".join(found)
