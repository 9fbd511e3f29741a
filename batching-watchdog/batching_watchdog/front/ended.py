"""Defines the end of a request, as log and spans need it. [P]"""

from typing import NamedTuple

from batching_watchdog.errors import WatchdogError
from batching_watchdog.messages import Batch, Reply


class Ended(NamedTuple):
    """What became of one request. Times are seconds on the front end's clock."""

    outcome: Reply | WatchdogError
    now: float
    meaning: str | None
    """Its outcome for the SLO; None: the SLO does not count it."""
    slo_class: str
    batch: Batch | None = None
    """The last batch that held it."""
    waited: float = 0.0
    """Seconds for which it waited for a worker."""
