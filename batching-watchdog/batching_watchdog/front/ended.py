"""Defines the end of a request: what metrics, log and spans are told of it. [P]"""

from dataclasses import dataclass

from batching_watchdog.errors import WatchdogError
from batching_watchdog.function.messages import Batch, Reply


@dataclass(slots=True, eq=False)
class Ended:
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
    admitted: bool = False
    """Whether it was queued until then, so that its stages are known."""
    sent: int | None = None
    """Bytes of an answer that was streamed; None: it is still to be sent."""
