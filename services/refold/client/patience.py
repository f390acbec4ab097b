"""How long a write that was not answered is sent again. Only `refold.client` may use it.

It is safe because every write carries an id: what the log has already is answered as its duplicate.
"""

from __future__ import annotations

import asyncio
from typing import Final

RETRY_SECONDS: Final = 15.0
"""A write is sent again for so long after it was first sent, …"""

RETRY_PAUSE_SECONDS: Final = 0.1
"""… first after this pause, which doubles …"""

RETRY_PAUSE_SECONDS_MAX: Final = 2.0
"""… up to this."""


class Patience:
    """The time left for one write. What is on its way when it ends is still waited for."""

    def __init__(self, seconds: float) -> None:
        """Begin now."""
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._pause_seconds = RETRY_PAUSE_SECONDS

    async def pause(self) -> bool:
        """Wait before the next try; False at once where no time is left for one."""
        if asyncio.get_running_loop().time() + self._pause_seconds > self._deadline:
            return False
        await asyncio.sleep(self._pause_seconds)
        self._pause_seconds = min(2 * self._pause_seconds, RETRY_PAUSE_SECONDS_MAX)
        return True
