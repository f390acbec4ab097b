"""Hypothesis strategies for patches with extension operations, and the functions that apply them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.extensions import EXTENDED, apply_extended
from refold.core.patch import compile_patch
from refold.core.pointer import render
from support.fold1 import LIMITS
from support.json_values import FLOATS, INTEGERS, KEYS, TEXTS, copied, json_values, operations, places

POSITIONS = st.integers(0, 9)
FITTING: dict[type, list[str]] = {int: ["inc"], float: ["inc"], list: ["push"], str: ["str_ins", "str_del"]}


@st.composite
def extension_operations(draw: st.DrawFn, state: Any) -> dict[str, Any]:
    """Return one well-formed extension operation that mostly fits a value of the state."""
    found = [(kind, tokens) for tokens in places(state) for kind in FITTING.get(type(_at(state, tokens)), ())]
    kind, tokens = draw(
        st.sampled_from(found or [("push", ()), ("inc", ()), ("str_ins", ()), ("str_del", ())])
    )
    if draw(st.integers(0, 9)) == 0:
        tokens = (*tokens, draw(KEYS))
    operation: dict[str, Any] = {"op": kind, "path": render(tokens)}
    if kind == "inc":
        return {**operation, "inc": draw(st.one_of(INTEGERS, FLOATS))}
    if kind == "push":
        return {**operation, "value": draw(json_values(4)), "max": draw(st.integers(1, 6))}
    rest = {"str": draw(TEXTS)} if kind == "str_ins" or draw(st.booleans()) else {"len": draw(POSITIONS)}
    return {**operation, "pos": draw(POSITIONS), **rest}


def _at(state: Any, tokens: tuple[str, ...]) -> Any:
    for token in tokens:
        state = state[token] if isinstance(state, dict) else state[int(token)]
    return state


@st.composite
def extended_patches(draw: st.DrawFn, state: Any) -> list[dict[str, Any]]:
    """Return a patch of plain and extension operations that often applies, each drawn for the state before it."""
    state, raw = copied(state), []
    for _ in range(draw(st.integers(1, 6))):
        operation = draw(extension_operations(state) if draw(st.integers(0, 3)) else operations(state))
        raw.append(operation)
        try:
            state, _, _ = apply(state, [copied(operation)])
        except Refused:
            break
    return raw


@st.composite
def accepted_patches(draw: st.DrawFn, state: Any) -> list[dict[str, Any]]:
    """Return a patch that applies, of plain operations mostly, each drawn for the state before it."""
    state, raw = copied(state), []
    for _ in range(draw(st.integers(1, 6))):
        operation = draw(operations(state) if draw(st.integers(0, 2)) else extension_operations(state))
        try:
            state, _, _ = apply(state, [copied(operation)])
        except Refused:
            continue
        raw.append(operation)
    return raw


def apply(state: Any, raw: list[Any]) -> tuple[Any, int, Any]:
    """Apply a patch in place; return root, size and effective patch."""
    compiled = compile_patch(raw, LIMITS, EXTENDED)
    return apply_extended(state, raw, compiled, size=json_text.size(state), limits=LIMITS)
