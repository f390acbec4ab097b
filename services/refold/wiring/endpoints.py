"""Where a running system is: said by flag, by setting, by the data folder's endpoints file, or the usual place.

Used by the commands over a running system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from refold.core import canonical
from refold.core.errors import Refused
from refold.wiring.settings import load

ENDPOINTS: Final = "endpoints.json"
USUAL_URL: Final = "http://127.0.0.1:8080"


def gateway_url(flag: str | None) -> str:
    """Return the gateway's address."""
    settings = load(url=flag)
    return settings.url or str(read_endpoints(settings.data).get("http") or USUAL_URL)


def read_endpoints(data: Path) -> dict[str, Any]:
    """Read what `refold up` wrote; nothing where it does not run."""
    try:
        endpoints = canonical.loads((data / ENDPOINTS).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, Refused) as error:
        raise Refused("bad_setting", f"cannot be read: {error}", field=str(data / ENDPOINTS)) from error
    return endpoints if isinstance(endpoints, dict) else {}
