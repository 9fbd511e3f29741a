"""Computes the arrivals of the last seconds from counters on pages that are read repeatedly. [P]

A page has the Prometheus format. A gateway's counts the started requests by function; a watchdog's counts
finished requests and those inside, and tells its replica's capacity and SLO. Other lines are ignored. The
author of a function writes its page, so patterns end with the line, where they could go back over it after
400 characters. Next step: ``direct`` reads the pages.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log, nan, sqrt
from typing import Any, Final

from slo_autoscaler.signals.gate import fault
from slo_autoscaler.signals.record import LARGEST, ON_PAGE, SIGNALS, Observation

SPANS: Final = (0.5, 2.5)
"""Spans in seconds over which arrivals are counted; the one with the higher sure rate counts. A short span
shows a large step earlier, a long span shows a small step."""
SURE: Final = 3.0
"""Standard deviations of Poisson arrivals to subtract: by chance the result exceeds the true rate about once
in 1,000 reads."""
SHORTEST: Final = 0.2
"""Minimum seconds between two samples; closer ones give no usable rate."""

LONGEST_NUMBER: Final = 40
"""Characters of a number; a double has at most 24."""

_STARTED: Final = re.compile(
    rb"^gateway_function_invocation_started\{(?:[^}\n]{0,400},)?"
    rb'function_name="([^"\\\n]{1,400})"[^}\n]{0,400}\} (\S+)',
    re.MULTILINE,
)
_STARTED_NAME: Final = b"gateway_function_invocation_started{"
_ENDED_NAME: Final = b"gateway_function_invocation_total{"
_ENDED: Final = re.compile(
    rb"^gateway_function_invocation_total\{(?:[^}\n]{0,400},)?"
    rb'function_name="([^"\\\n]{1,400})"[^}\n]{0,400}\} (\S+)',
    re.MULTILINE,
)
_INSIDE: Final = re.compile(rb"^http_requests_in_flight (\S+)", re.MULTILINE)
_ARRIVED: Final = re.compile(
    rb"^(?:slo_requests_total\{[^}\n]*\}|http_requests_in_flight) (\S+)", re.MULTILINE
)

_TOLD: Final = {name: f"\n{signal.page} ".encode() for name, signal in ON_PAGE.items()}
"""Signal -> the begin of its line on a watchdog's page, after the end of another."""

_IDENTITY: Final = re.compile(rb"^watchdog_identity (\S+)", re.MULTILINE)

WHOLE: Final = ""
"""Name for the count of a watchdog's page, which is about one function."""


def started(page: bytes) -> dict[str, float]:
    """Return {function_name: started requests} from a gateway's page."""
    lines = _adjacent(page, _STARTED_NAME)
    counts = [(name.decode(errors="replace"), _number(value)) for name, value in _STARTED.findall(lines)]
    return {name: value for name, value in counts if value is not None}


def arrived(page: bytes) -> dict[str, float]:
    """Return {WHOLE: requests that have arrived} from a watchdog's page."""
    values = [value for value in map(_number, _ARRIVED.findall(page)) if value is not None]
    return {WHOLE: sum(values)} if values else {}


def inside(page: bytes) -> dict[str, float]:
    """Return {WHOLE: requests inside} from a watchdog's page."""
    values = [value for value in map(_number, _INSIDE.findall(page)) if value is not None]
    return {WHOLE: sum(values)} if values else {}


def unfinished(page: bytes) -> dict[str, float]:
    """Return {function_name: requests started and not ended} from a gateway's page."""
    begun = started(page)
    for name, value in _ENDED.findall(_adjacent(page, _ENDED_NAME)):
        text, ended = name.decode(errors="replace"), _number(value)
        if text in begun and ended is not None:
            begun[text] -= ended
    return {name: max(0.0, count) for name, count in begun.items()}


def _adjacent(page: bytes, name: bytes) -> bytes:
    """Return the lines of a metric, which are adjacent: the rest of the page may be megabytes."""
    begin, last = page.find(name), page.rfind(name)
    return b"" if begin < 0 else page[begin:last] + page[last:].partition(b"\n")[0]


def identity(page: bytes) -> float | None:
    """Return the number by which a watchdog's page is the same at each address; None: it has none."""
    line = _IDENTITY.search(page)
    return None if line is None else _number(line[1])


def told(page: bytes) -> dict[str, float]:
    """Return {signal: value} of what a watchdog's page tells of its replica; one without sense is left out.

    So a replica that has not learned its capacity does not hide the others.
    """
    lines = b"\n" + page
    values = {name: _value(lines, begin) for name, begin in _TOLD.items()}
    return {name: value for name, value in values.items() if value is not None and not fault(name, value)}


def observed(rate: float, in_flight: float, pages: Sequence[Mapping[str, float]]) -> Observation:
    """Return what replicas tell (``told``) as one, with the load of all of them."""
    load = Observation(rate=rate, up_replicas=float(len(pages)), sample_age=0.0)
    return replace(load, **joined(pages) | {"in_flight": in_flight})


def joined(pages: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return {signal: value} of what each replica tells, as the signal's record joins them."""
    values = {name: [page[name] for page in pages if name in page] for name in ON_PAGE}
    return {
        name: join.of(column) for name, column in values.items() if column and (join := SIGNALS[name].joined)
    }


def _value(lines: bytes, begin: bytes) -> float | None:
    """Return the number after the first ``begin``; None: there is none."""
    at = lines.find(begin) + len(begin)
    text = lines[at : at + LONGEST_NUMBER + 1].partition(b"\n")[0].partition(b" ")[0]
    return None if at < len(begin) else _float(text)


def _number(text: bytes) -> float | None:
    """Return a count of at least 0 and below ``LARGEST``, or None."""
    value = _float(text)
    return value if 0.0 <= value < LARGEST else None


def _float(text: bytes) -> float:
    try:
        return float(text) if len(text) <= LONGEST_NUMBER else nan
    except ValueError:
        return nan


@dataclass(slots=True)
class Page:
    """The counters of one page in the last seconds."""

    samples: deque[tuple[float, Mapping[str, float]]] = field(default_factory=deque)
    """(seconds on any monotonic clock, {function_name: count})"""

    def add(self, now: float, counts: Mapping[str, float]) -> None:
        """Record the counts at ``now``. A lower count belongs to a new process."""
        samples = self.samples
        if samples:
            before = samples[-1][1]
            if any(value < before.get(name, 0.0) for name, value in counts.items()):
                samples.clear()
        samples.append((now, counts))
        while len(samples) > 2 and now - samples[1][0] >= SPANS[-1]:
            samples.popleft()

    def rises(self) -> bool:
        """Return whether a function had more arrivals since the last sample than chance explains.

        By its mean rate in the samples before: a step that began between two samples shows in part.
        """
        if len(self.samples) < 3:
            return False
        (begin, first), (last, before), (end, after) = self.samples[0], self.samples[-2], self.samples[-1]
        if last - begin < SHORTEST:
            return False
        share = (end - last) / (last - begin)
        # Of many functions one exceeds its mean by more.
        sigmas = sqrt(SURE * SURE + 2.0 * log(len(after) or 1))
        for name, count in after.items():
            counted = before.get(name, 0.0)
            # A counter that was missing between them may be lower now.
            usual = share * max(0.0, counted - first.get(name, 0.0))
            # A Poisson count of the mean exceeds it by the square root of it; of a small one by more.
            if count - counted > usual + sigmas * sqrt(usual) + sigmas * sigmas / 2.0:
                return True
        return False

    def arrivals(self, span: float) -> Mapping[str, tuple[float, float]]:
        """Return {function_name: (arrivals, seconds)} of at least the last ``span`` seconds.

        Of a shorter time if the page was first read later. Nothing of a count that was missing and is lower.
        """
        if len(self.samples) < 2:
            return {}
        end, after = self.samples[-1]
        before_that = [sample for sample in self.samples if end - sample[0] >= span]
        begin, before = before_that[-1] if before_that else self.samples[0]
        if end - begin < SHORTEST:
            return {}
        # A missing function had no request: the counter appears with the first one.
        counts = {name: value - before.get(name, 0.0) for name, value in after.items()}
        return {name: (count, end - begin) for name, count in counts.items() if count >= 0.0}


def surely(arrivals: Iterable[tuple[float, float]]) -> float:
    """Return the requests per second that surely arrive, from (count, seconds) of each page."""
    rate = variance = 0.0
    for count, seconds in arrivals:
        rate += count / seconds
        variance += count / (seconds * seconds)
    return max(0.0, rate - SURE * sqrt(variance))
