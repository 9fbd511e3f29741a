"""The seams of a source of observations, and the settings of Prometheus.

A source has three methods and makes no decisions.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Final, NamedTuple, Protocol

from pydantic import Field, ValidationInfo, field_validator

from slo_autoscaler.settings.fields import Headers, Matchers, PositiveDuration, Tls, Url, over_https, settings
from slo_autoscaler.signals.record import Observation, Recorded

MIN_SCRAPES: Final = 4
"""Minimum scrapes in the query window: two for a rate, one that may be missed, one at the edge."""

MIN_AGE_SCRAPES: Final = 2
"""Minimum scrape intervals in ``max_age``: one until the next scrape, and one that may be missed."""

Earlier = tuple[tuple[float, float], ...]
"""((seconds after an earlier moment, arrivals per second), ...), oldest first; negative is before it."""


@settings
class BasicAuth:
    """Basic auth towards Prometheus, or the proxy in front of it."""

    username: Annotated[str, Field(pattern=r"^[^:]+$")]
    """User name, text without a colon; a number needs quotes."""
    password_file: str
    """File of the password; surrounding space is ignored. Each request reads it again."""


@settings
class Settings:
    """The Prometheus server, and how to query it."""

    url: Url
    """URL of the server that scrapes the functions, with any path before ``/api``."""
    scrape_interval: PositiveDuration = 5.0
    """Interval at which Prometheus scrapes the functions. It is measured, and a difference is logged."""
    window: PositiveDuration = 30.0
    """Query window of latency and attainment, at least four scrapes; arrival rates use four or, for a slow
    function, the time of 100 requests, at most five minutes."""
    timeout: PositiveDuration = 5.0
    """Time limit of all queries of a reconcile together; after it every function holds. No retries."""
    max_age: PositiveDuration = 20.0
    """Maximum age of the newest sample, at least two scrapes; an older one is no data."""
    bearer_token_file: str | None = None
    """File of a token for Authorization: Bearer. Each request reads it again."""
    basic_auth: BasicAuth | None = None
    headers: Headers = Field(default_factory=dict, repr=False)
    """Headers of each request, for example X-Scope-OrgID, the tenant of Mimir and Cortex."""
    matchers: Matchers = Field(default_factory=dict)
    """Labels of this cluster's series, such as ``cluster: eu``, in every query but those of ``also``."""
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


class Load(NamedTuple):
    """What arrives at a function now, read directly."""

    rate: float
    """Requests per second that surely arrive."""
    in_flight: float
    """Requests inside it."""
    told: Observation | None = None
    """The same and what replicas tell of themselves, enough to add some; None: no watchdog was read."""


class DirectLoad(Protocol):
    """The load that is read directly, as the controller uses it. Neither method waits."""

    def watch(self, function_names: Collection[str]) -> None:
        """Read these functions from now on."""

    def loads(self) -> Mapping[str, Load]:
        """Return {function_name: its load}; unseen functions are absent."""


class Source(Protocol):
    """A source as the controller uses it."""

    def observe(self) -> dict[str, Observation]:
        """Return {function_name: Observation} as of now, or raise ``SourceError``.

        A missing function has no data. Returns all signals or none: with half of them a low rate would look
        like low load. Returns within the source's timeout.
        """

    def history(self, span: float) -> dict[str, Recorded]:
        """Return {function_name: history of the last ``span`` seconds}, or raise ``SourceError``.

        Called once after a start: only the source knows the time before it. The last exports of the previous
        autoscaler are found for an hour after it stopped.
        """

    def earlier(self, ages: Sequence[float], span: float) -> dict[str, dict[float, Earlier]]:
        """Return {function_name: {age: arrivals around the moment ``age`` seconds ago}}.

        The arrivals cover ``span`` seconds before and after that moment, up to now. Each is the mean of the
        step that ends there; a step is the rate window, or a thirtieth of the range if that is longer. A
        function or age without recorded arrivals is absent. For 10,000 functions each age costs about 0.4 s
        of CPU, so call it every few minutes. Raises ``SourceError``; returns within the source's timeout.
        """
