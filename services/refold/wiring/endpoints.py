"""The addresses of a running system, in its data folder. Used by the commands.

Nothing heavy is imported here: every command over a running system comes by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from refold.core import canonical
from refold.core.errors import Refused

ENDPOINTS: Final = "endpoints.json"


def read_endpoints(data: Path) -> dict[str, Any]:
    """Read what `refold up` wrote; nothing where it does not run."""
    try:
        endpoints = canonical.loads((data / ENDPOINTS).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, Refused) as error:
        raise Refused("bad_setting", f"cannot be read: {error}", field=str(data / ENDPOINTS)) from error
    return endpoints if isinstance(endpoints, dict) else {}
