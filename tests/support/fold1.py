"""The core's functions under the limits of fold 1, for tests that are not about limits."""

from __future__ import annotations

from functools import partial

from refold.core import envelope, event, merge, patch
from refold.core.fold.v1 import RULES

LIMITS = RULES.limits

apply_patch = partial(patch.apply_patch, limits=LIMITS)
apply_merge = partial(merge.apply_merge, limits=LIMITS)
compile_patch = partial(patch.compile_patch, limits=LIMITS, shapes=RULES.operations)
decode = partial(event.decode, limits=LIMITS, operations=RULES.operations)
open_envelope = partial(envelope.open_envelope, limits=LIMITS)
