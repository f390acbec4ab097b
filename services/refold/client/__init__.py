"""The Python client of a running Refold. Anyone may use it; it imports nothing of the services.

`from refold.client import Refold`
"""

from refold.client.refold import Refold
from refold.client.values import Change, Document, Namespace, Outcome, Rejection

__all__ = ["Change", "Document", "Namespace", "Outcome", "Refold", "Rejection"]
