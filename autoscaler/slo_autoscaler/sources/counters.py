"""Arrivals of the last seconds, from counters on pages that are read again and again. [P]

A page is text of the Prometheus format: a gateway's, which counts the requests that it has started by
function, or a watchdog's, which counts those that are done and those inside. Only these lines are looked
at. Next step: ``direct`` reads the pages.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Final

SPANS: Final = (0.5, 2.5)
"""Seconds over which arrivals are counted at least, if a page is known for so long; the one that is surer of
more counts. A short span tells a large step earlier, a long one a small step."""
SURE: Final = 3.0
"""Standard deviations of Poisson arrivals that are taken off: by chance alone the rest exceeds the true rate
about once in 1,000 looks."""
SHORTEST: Final = 0.2
"""Seconds between two samples below which their times say too little."""

_STARTED: Final = re.compile(
    rb'^gateway_function_invocation_started\{(?:[^}]*,)?function_name="([^"\\]+)"[^}]*\} (\S+)', re.MULTILINE
)
_STARTED_NAME: Final = b"gateway_function_invocation_started{"
_ARRIVED: Final = re.compile(rb"^(?:slo_requests_total\{[^}]*\}|http_requests_in_flight) (\S+)", re.MULTILINE)

WHOLE: Final = ""
"""The name under which a watchdog's page counts: it is all of one function."""


def started(page: bytes) -> dict[str, float]:
    """Return {function_name: requests that a gateway has started}, of its page."""
    # The lines of a metric stand together; what is before and behind them may be megabytes.
    begin, last = page.find(_STARTED_NAME), page.rfind(_STARTED_NAME)
    if begin < 0:
        return {}
    lines = page[begin:last] + page[last:].partition(b"\n")[0]
    found = [(name.decode(errors="replace"), _number(value)) for name, value in _STARTED.findall(lines)]
    return {name: value for name, value in found if value is not None}


def arrived(page: bytes) -> dict[str, float]:
    """Return {WHOLE: requests that have come to a watchdog}, of its page."""
    values = [value for value in map(_number, _ARRIVED.findall(page)) if value is not None]
    return {WHOLE: sum(values)} if values else {}


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None


@dataclass(slots=True)
class Page:
    """The counters of one page as they were in the last seconds."""

    samples: deque[tuple[float, Mapping[str, float]]] = field(default_factory=deque)
    """(seconds on any monotonic clock, {function_name: count})"""

    def add(self, now: float, counts: Mapping[str, float]) -> None:
        """Note what the page says ``now``. A count that has fallen is that of a new process."""
        samples = self.samples
        if samples:
            before = samples[-1][1]
            if any(value < before.get(name, 0.0) for name, value in counts.items()):
                samples.clear()
        samples.append((now, counts))
        while len(samples) > 2 and now - samples[1][0] >= SPANS[-1]:
            samples.popleft()

    def arrivals(self, span: float) -> Mapping[str, tuple[float, float]]:
        """Return {function_name: (requests that arrived, in so many seconds)} of at least the last ``span``.

        Of less if the page is not known for so long.
        """
        if len(self.samples) < 2:
            return {}
        end, after = self.samples[-1]
        before_that = [sample for sample in self.samples if end - sample[0] >= span]
        begin, before = before_that[-1] if before_that else self.samples[0]
        if end - begin < SHORTEST:
            return {}
        # A function that was not there had no request: the counter appears with its first.
        return {name: (value - before.get(name, 0.0), end - begin) for name, value in after.items()}


def surely(arrivals: Iterable[tuple[float, float]]) -> float:
    """Return the requests per second that surely arrive, by (count, seconds) of each page."""
    rate = variance = 0.0
    for count, seconds in arrivals:
        rate += count / seconds
        variance += count / (seconds * seconds)
    return max(0.0, rate - SURE * sqrt(variance))
