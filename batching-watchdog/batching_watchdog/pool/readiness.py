"""Why no worker can serve. [P]"""

from collections.abc import Sized
from enum import Enum


class Trouble(Enum):
    """What the newest worker has shown, as text."""

    NONE = "no worker has loaded the handler yet"
    NOT_LOADED = "no worker could load the handler; the log has the reason"
    FAILS_EXAMPLE = "the handler fails on its own example(); the log has the reason"


class Readiness:
    """Since when no worker serves, and why."""

    def __init__(self, load_timeout: float, now: float) -> None:
        self._load_timeout = load_timeout
        self.away_since = now
        """Time at which the last worker has left; the pool's start before."""
        self.trouble = Trouble.NONE

    def why_not(self, serving: Sized, now: float, *, all_overdue: bool) -> str:
        """Return why no worker can serve now; empty if one can."""
        if serving:
            return "every worker has been at its batch or step for too long" if all_overdue else ""
        if now - self.away_since > self._load_timeout:
            return f"no worker has loaded the handler within load_timeout ({self._load_timeout:g} s)"
        return self.trouble.value
