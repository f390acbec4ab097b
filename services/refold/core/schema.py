"""A subset of JSON Schema (2020-12) that a namespace may require of its documents' states.

The keywords are `type properties required additionalProperties items enum const minimum maximum minLength maxLength
pattern minItems maxItems`, `$ref` within the document and `$defs` for it to name; a schema may also be true or false.
They mean what JSON Schema says: 1 and 1.0 are equal and both integers, lengths are counted in code points, a pattern is
searched for. Patterns are of the dialect of `refold.core.regex`. Anything else is refused when the schema is compiled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import unquote

from refold.core.errors import Refused
from refold.core.json_text import Json
from refold.core.pointer import parse, render
from refold.core.schema_keywords import KEYWORDS, Check, refuse_schema

SUBSCHEMAS_MAX: Final = 1_000
CHECKS_MAX: Final = 20_000_000
"""Members and elements that one state may be checked for, each once for every subschema that applies to it."""


class Violation(NamedTuple):
    """The first value of a state that a schema does not allow: members in the order of their code points."""

    pointer: str
    keyword: str


class Schema:
    """A compiled schema."""

    def __init__(self, source: Json) -> None:
        """Raises `Refused`, whose `field` is the pointer of what is not allowed."""
        self._root = _compile(source)

    def violation(self, state: Json) -> Violation | None:
        """Return where a state breaks the schema."""
        found = _Check().first(state, self._root.applied)
        return None if found is None else Violation(render(found.tokens[::-1]), found.keyword)


class _Subschema:
    """One subschema. `applied` are those that a value it applies to is held to: itself, and what its `$ref` names."""

    __slots__ = ("additional", "applied", "checks", "items", "pointer", "properties", "reference")

    def __init__(self, pointer: tuple[str, ...]) -> None:
        self.pointer = pointer
        self.checks: list[tuple[str, Check]] = []
        self.properties: dict[str, _Subschema] = {}
        self.additional: _Subschema | None = None
        self.items: _Subschema | None = None
        self.reference: tuple[str, ...] | None = None
        self.applied: tuple[_Subschema, ...] = (self,)


class _Found(NamedTuple):
    """A violation, and the tokens to its value from the last one."""

    keyword: str
    tokens: list[str]


class _Check:
    """One state's check, which counts its work."""

    __slots__ = ("_checks",)

    def __init__(self) -> None:
        self._checks = 0

    def first(self, value: Json, schemas: tuple[_Subschema, ...]) -> _Found | None:
        for schema in schemas:
            for keyword, is_allowed in schema.checks:
                if not is_allowed(value):
                    return _Found(keyword, [])
        if type(value) is dict:
            return self._first_member(value, schemas)
        return self._first_element(value, schemas) if type(value) is list else None

    def _first_member(self, members: dict[str, Json], schemas: tuple[_Subschema, ...]) -> _Found | None:
        for key in sorted(members):
            inner = _applied_to(schema.properties.get(key, schema.additional) for schema in schemas)
            found = self._inside(members[key], key, inner)
            if found is not None:
                return found
        return None

    def _first_element(self, elements: list[Json], schemas: tuple[_Subschema, ...]) -> _Found | None:
        inner = _applied_to(schema.items for schema in schemas)
        if not inner:
            return None
        for place, value in enumerate(elements):
            found = self._inside(value, place, inner)
            if found is not None:
                return found
        return None

    def _inside(self, value: Json, place: str | int, schemas: tuple[_Subschema, ...]) -> _Found | None:
        self._checks += len(schemas)
        if self._checks > CHECKS_MAX:
            return _Found("the work to check it", [str(place)])
        found = self.first(value, schemas)
        if found is not None:
            found.tokens.append(str(place))
        return found


def _applied_to(schemas: Iterable[_Subschema | None]) -> tuple[_Subschema, ...]:
    """Return all that is applied with some subschemas, each once: otherwise references could double at each level."""
    found = [schema.applied for schema in schemas if schema is not None]
    if len(found) == 1:
        return found[0]
    return tuple(dict.fromkeys(schema for applied in found for schema in applied))


def _compile(source: Json) -> _Subschema:
    compiler = _Compiler()
    root = compiler.subschema(source, ())
    for schema in compiler.schemas.values():
        schema.applied = compiler.applied(schema)
    return root


class _Compiler:
    """The subschemas of one schema, by the tokens of their pointers."""

    def __init__(self) -> None:
        self.schemas: dict[tuple[str, ...], _Subschema] = {}

    def subschema(self, source: Json, tokens: tuple[str, ...]) -> _Subschema:
        schema = self.schemas[tokens] = _Subschema(tokens)
        if len(self.schemas) > SUBSCHEMAS_MAX:
            refuse_schema(tokens, f"a schema has at most {SUBSCHEMAS_MAX} subschemas", source)
        if source is False:
            schema.checks.append(
                (tokens[-1] if tokens[-1:] == ("additionalProperties",) else "false", _never)
            )
        elif type(source) is dict:
            for keyword in sorted(source):
                self._add(schema, keyword, source[keyword], (*tokens, keyword))
        elif source is not True:
            refuse_schema(tokens, "a schema is an object, true or false", source)
        return schema

    def applied(self, schema: _Subschema) -> tuple[_Subschema, ...]:
        """Follow the reference of a subschema, and that of what it names."""
        found = [schema]
        while found[-1].reference is not None:
            named = self.schemas.get(found[-1].reference)
            where = (*found[-1].pointer, "$ref")
            if named is None:
                refuse_schema(where, "a $ref names a subschema of this schema", render(found[-1].reference))
            if named in found:
                refuse_schema(where, "a $ref leads back to itself", render(found[-1].reference))
            found.append(named)
        return tuple(found)

    def _add(self, schema: _Subschema, keyword: str, value: Json, tokens: tuple[str, ...]) -> None:
        if keyword in {"properties", "$defs"}:
            if type(value) is not dict:
                refuse_schema(tokens, f"{keyword} is an object of schemas", value)
            members = {name: self.subschema(value[name], (*tokens, name)) for name in sorted(value)}
            if keyword == "properties":
                schema.properties = members
        elif keyword == "additionalProperties":
            schema.additional = self.subschema(value, tokens)
        elif keyword == "items":
            schema.items = self.subschema(value, tokens)
        elif keyword == "$ref":
            schema.reference = _reference(value, tokens)
        elif keyword in KEYWORDS:
            schema.checks.append((keyword, KEYWORDS[keyword](value, tokens)))
        else:
            rule = f"the keywords are {', '.join(sorted({*KEYWORDS, *_APPLICATORS}))}"
            refuse_schema(tokens, rule, value)


def _reference(value: Json, tokens: tuple[str, ...]) -> tuple[str, ...]:
    if type(value) is not str or value[:1] != "#":
        refuse_schema(tokens, "a $ref is # and a JSON Pointer within this schema", value)
    try:
        return parse(unquote(value[1:], errors="strict"))
    except (UnicodeDecodeError, Refused):
        refuse_schema(tokens, "behind # in a $ref is a JSON Pointer", value)


def _never(_found: Json) -> bool:
    return False


_APPLICATORS: Final = ("$defs", "$ref", "additionalProperties", "items", "properties")
