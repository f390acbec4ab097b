"""Patches applied to a client's own copy of a document. For users of the client."""

from __future__ import annotations

from refold.client.requests import json_bytes
from refold.client.responses import Patch
from refold.core import json_text
from refold.core.document import UNBOUNDED
from refold.core.json_text import Json

_DELETION: Patch = [{"op": "remove", "path": ""}]
"""The patch of a change that deletes the document; no author's patch has it."""


def apply_patch(state: Json, patch: Patch) -> Json:
    """Return what a patch makes of a state, which stays as it is.

    For the patches of changes, in the order of their versions, and for a copy that shows an edit before it is sent. The
    extension operations are `inc`, `str_ins`, `str_del` and `push`. An absent document is `{}`. Raises `Refused` where
    the patch does not apply; the error names the operation.
    """
    # A program that needs no copies does without them.
    from refold.core.extensions import EXTENDED, apply_extended  # noqa: PLC0415
    from refold.core.patch import compile_patch  # noqa: PLC0415

    if patch == _DELETION:
        return {}
    # The values become part of the state, and later patches change them there.
    copy, raw = (json_text.reread(json_bytes(value)) for value in (state, patch))
    operations = compile_patch(raw, UNBOUNDED, EXTENDED)
    patched, _, _ = apply_extended(copy, raw, operations, size=json_text.size(copy), limits=UNBOUNDED)
    return patched
