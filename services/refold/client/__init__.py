"""The Python client of a running Refold. It imports nothing of the services.

`from refold.client import Refold`; the synchronous one is `from refold.client.sync import Refold`.
"""

from refold.client.client import Refold
from refold.client.requests import Time, WatchOptions, WriteOptions
from refold.client.resolvers import JsonPatch, Resolver, Undecided, resolver
from refold.client.responses import (
    Change,
    Conflict,
    Document,
    DocumentUpdate,
    Leaf,
    Namespace,
    NamespaceUpdate,
    Outcome,
    OutcomeError,
    Patch,
    RecordedConflict,
    Rejected,
    Rejection,
    Transaction,
    apply_patch,
    as_json,
    find_namespace,
)
from refold.core.errors import (
    DocumentAbsent,
    HistoryElsewhere,
    HistorySlow,
    LogDiffers,
    RefoldError,
    Refused,
    ServiceUnavailable,
    TimedOut,
    VersionUnknown,
)

__all__ = [
    "Change",
    "Conflict",
    "Document",
    "DocumentAbsent",
    "DocumentUpdate",
    "HistoryElsewhere",
    "HistorySlow",
    "JsonPatch",
    "Leaf",
    "LogDiffers",
    "Namespace",
    "NamespaceUpdate",
    "Outcome",
    "OutcomeError",
    "Patch",
    "RecordedConflict",
    "Refold",
    "RefoldError",
    "Refused",
    "Rejected",
    "Rejection",
    "Resolver",
    "ServiceUnavailable",
    "Time",
    "TimedOut",
    "Transaction",
    "Undecided",
    "VersionUnknown",
    "WatchOptions",
    "WriteOptions",
    "apply_patch",
    "as_json",
    "find_namespace",
    "resolver",
]
