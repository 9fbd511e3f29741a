"""Where observations come from.

- ``promql`` [P]   query texts; answers -> numbers
- ``prometheus``   the queries over HTTP, all functions in one query for each signal
- ``replay``       the same from a recording

A source has two methods; ``Settings`` are those of Prometheus. It decides nothing.
"""

from typing import Final, Protocol

from pydantic import ValidationInfo, field_validator

from slo_autoscaler.fields import PositiveDuration, Url, settings
from slo_autoscaler.law.restart import Past
from slo_autoscaler.signals import Observation

MIN_SCRAPES: Final = 4
"""Scrapes that the query window must span: two are needed for a rate, one may be missed, one is the edge."""


@settings
class Settings:
    """Where observations come from."""

    url: Url
    """Of the server that scrapes the functions, with the path before ``/api`` if there is one."""
    scrape_interval: PositiveDuration = 5.0
    """What Prometheus is configured with for the functions; it cannot be asked for."""
    window: PositiveDuration = 30.0
    """Of latency and attainment, at least four scrapes; arrival rates are taken over exactly four."""
    timeout: PositiveDuration = 5.0
    """For all queries of a reconcile together. No retries: without an answer every function holds."""
    max_age: PositiveDuration = 20.0
    """A newest sample older than this is no data."""

    @property
    def rate_window(self) -> float:
        """The shortest window that gives a rate reliably, seconds."""
        return MIN_SCRAPES * self.scrape_interval

    @field_validator("window")
    @classmethod
    def _spans_scrapes(cls, window: float, info: ValidationInfo) -> float:
        scrape = info.data.get("scrape_interval")
        if scrape is not None and window < MIN_SCRAPES * scrape:
            raise ValueError(f"must span at least {MIN_SCRAPES} scrapes, {MIN_SCRAPES * scrape:g}s")
        return window


class Source(Protocol):
    """What the controller needs from a source."""

    def observe(self) -> dict[str, Observation]:
        """Return {function_name: Observation} as of now, or raise ``SourceError``.

        A function that is missing has no data. All signals or none: a reconcile on half of them would
        take a low rate for a lull. Returns within the time that the source is given, whatever happens.
        """

    def history(self, span: float) -> dict[str, Past]:
        """Return {function_name: what is known of the last ``span`` seconds}, or raise ``SourceError``.

        Asked for once, after a start: what was seen before it is known to the source alone.
        """
