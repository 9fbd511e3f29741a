"""Where observations come from.

- ``promql`` [P]   query texts; answers -> numbers
- ``prometheus``   the queries over HTTP, all functions in one query for each signal
- ``replay``       the same from a recording
- ``direct``       the load alone, each second, from the pages that Prometheus scrapes
- ``counters`` [P] their counters -> arrivals per second

A source has three methods; ``Settings`` are those of Prometheus. It decides nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Final, Protocol

from pydantic import Field, ValidationInfo, field_validator

from slo_autoscaler.fields import Headers, PositiveDuration, Tls, Url, over_https, settings
from slo_autoscaler.law.restart import Past
from slo_autoscaler.signals import Observation

MIN_SCRAPES: Final = 4
"""Scrapes that the query window must span: two are needed for a rate, one may be missed, one is the edge."""

MIN_AGE_SCRAPES: Final = 2
"""Scrape intervals that ``max_age`` must allow: one passes before the next scrape, and one may be missed."""

Earlier = tuple[tuple[float, float], ...]
"""((seconds after an earlier moment, arrivals per second), ...), oldest first; negative is before."""


@settings
class BasicAuth:
    """A user of Prometheus, or of the proxy in front of it."""

    username: Annotated[str, Field(pattern=r"^[^:]+$")]
    """Text without a colon; a number needs quotes."""
    password_file: str
    """Holds the password; space around it is left out. Read again for each request."""


@settings
class Settings:
    """Where observations come from."""

    url: Url
    """Of the server that scrapes the functions, with the path before ``/api`` if there is one."""
    scrape_interval: PositiveDuration = 5.0
    """The interval at which Prometheus scrapes the functions. It is measured; the log names a difference."""
    window: PositiveDuration = 30.0
    """Of latency and attainment, at least four scrapes; arrival rates are taken over exactly four."""
    timeout: PositiveDuration = 5.0
    """For all queries of a reconcile together. No retries: without an answer every function holds."""
    max_age: PositiveDuration = 20.0
    """A newest sample older than this is no data; at least two scrapes."""
    bearer_token_file: str | None = None
    """Holds a token that is sent as Authorization: Bearer. Read again for each request."""
    basic_auth: BasicAuth | None = None
    headers: Headers = Field(default_factory=dict, repr=False)
    """Sent with each request, such as X-Scope-OrgID, the tenant of Mimir and Cortex."""
    tls: Tls = Field(default_factory=Tls)

    @property
    def rate_window(self) -> float:
        """The shortest window that gives a rate reliably, seconds."""
        return MIN_SCRAPES * self.scrape_interval

    @field_validator("window")
    @classmethod
    def _spans_scrapes(cls, window: float, info: ValidationInfo) -> float:
        scrape = info.data.get("scrape_interval")
        if scrape is not None and window < MIN_SCRAPES * scrape:
            least = MIN_SCRAPES * scrape
            raise ValueError(f"must be at least {MIN_SCRAPES} x prometheus.scrape_interval, {least:g}s")
        return window

    @field_validator("max_age")
    @classmethod
    def _outlasts_scrapes(cls, max_age: float, info: ValidationInfo) -> float:
        scrape = info.data.get("scrape_interval")
        if scrape is not None and max_age < MIN_AGE_SCRAPES * scrape:
            least = MIN_AGE_SCRAPES * scrape
            raise ValueError(
                f"must be at least {MIN_AGE_SCRAPES} x prometheus.scrape_interval, {least:g}s:"
                " otherwise every sample may be too old before the next scrape"
            )
        return max_age

    @field_validator("basic_auth")
    @classmethod
    def _one_authorization(cls, basic_auth: BasicAuth | None, info: ValidationInfo) -> BasicAuth | None:
        if basic_auth is not None and info.data.get("bearer_token_file") is not None:
            raise ValueError("must not be set beside bearer_token_file: both set the header Authorization")
        return basic_auth

    @field_validator("tls")
    @classmethod
    def _over_https(cls, tls: Tls, info: ValidationInfo) -> Tls:
        return over_https(tls, info.data.get("url"))


class DirectLoad(Protocol):
    """What the controller needs of the load that is read beside the source. Neither method waits."""

    def watch(self, function_names: Collection[str]) -> None:
        """Look at these functions from now on."""

    def rates(self) -> Mapping[str, float]:
        """Return {function_name: requests per second that surely arrive}; one that is not seen is absent."""


class Source(Protocol):
    """What the controller needs from a source."""

    def observe(self) -> dict[str, Observation]:
        """Return {function_name: Observation} as of now, or raise ``SourceError``.

        A function that is missing has no data. All signals or none: a reconcile on half of them would
        take a low rate for a lull. Returns within the time that the source is given, whatever happens.
        """

    def history(self, span: float) -> dict[str, Past]:
        """Return {function_name: what is known of the last ``span`` seconds}, or raise ``SourceError``.

        Asked for once, after a start: only the source knows the time before it. The last exports of the
        autoscaler before are found for an hour after it stopped.
        """

    def earlier(self, ages: Sequence[float], span: float) -> dict[str, dict[float, Earlier]]:
        """Return {function_name: {age: arrivals around the moment ``age`` seconds ago}}.

        The arrivals cover ``span`` seconds before and after that moment, up to now. Each is the mean of the
        step that ends there; a step is the rate window, or a thirtieth of the range if that is longer. A
        function or age without recorded arrivals is absent. For 10,000 functions each age costs about 0.4 s
        of CPU: ask every few minutes. Raises ``SourceError``; returns within the time that the source has.
        """
