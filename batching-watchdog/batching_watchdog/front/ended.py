"""Defines the end of a request: what metrics, log and spans are told of it. [P]"""

from batching_watchdog.errors import WatchdogError
from batching_watchdog.messages import Batch, Reply


class Ended:
    """What became of one request. Times are seconds on the front end's clock.

    Every request has one, so it is a plain slotted class.
    """

    __slots__ = ("admitted", "batch", "meaning", "now", "outcome", "sent", "slo_class", "waited")

    def __init__(
        self,
        outcome: Reply | WatchdogError,
        now: float,
        meaning: str | None,
        slo_class: str,
        batch: Batch | None = None,
        waited: float = 0.0,
        admitted: bool = False,
        sent: int | None = None,
    ) -> None:
        self.outcome = outcome
        self.now = now
        self.meaning = meaning
        """Its outcome for the SLO; None: the SLO does not count it."""
        self.slo_class = slo_class
        self.batch = batch
        """The last batch that held it."""
        self.waited = waited
        """Seconds for which it waited for a worker."""
        self.admitted = admitted
        """Whether it was queued until then, so that its stages are known."""
        self.sent = sent
        """Bytes of an answer that was streamed; None: it is still to be sent."""
