"""Queries Prometheus for the page, with limits on time, number and rate.

Owns the requests and the cached answers. It is separate from the source of decisions, so page traffic cannot
delay a reconcile. ``signals.queries`` has the queries.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from slo_autoscaler.errors import SourceError
from slo_autoscaler.show.web.charts import Grid
from slo_autoscaler.signals import queries
from slo_autoscaler.signals.prometheus import PrometheusClient
from slo_autoscaler.signals.queries import Firing, Points
from slo_autoscaler.signals.source import Settings

KEPT: Final = 5.0
"""Seconds for which an answer is cached."""

MAX_KEPT: Final = 64
"""Maximum number of cached answers."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Health:
    """What Prometheus says of itself and by its alerts."""

    alerts: Sequence[Firing] = ()
    """Those that fire."""
    problem: str | None = None
    """Why it cannot be queried; None: it can."""
    no_alerts: str | None = None
    """Why it can be queried, but not for its alerts."""


class Reader:
    """Queries with a cache of a few seconds; every method may be called from any thread."""

    def __init__(self, config: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._client = PrometheusClient(config, "page-prometheus")
        self._lock = threading.Lock()
        self._kept: dict[object, tuple[float, Any]] = {}

    def now(self) -> float:
        """Return the Unix time by Prometheus' own clock, so that clocks need not agree."""
        return self._remembered("now", lambda: self._all({"now": self._time})["now"])

    def ranges(self, texts: Mapping[str, str], at: Grid) -> dict[str, Points]:
        """Return the points of every query, each with at most one series. Raises ``SourceError``."""
        key = (tuple(texts.values()), at)
        return self._remembered(
            key, lambda: self._all({name: self._range(text, at) for name, text in texts.items()})
        )

    def instants(self, texts: Mapping[str, str], label: str = "") -> dict[str, dict[str, float]]:
        """Return {query: {value of the label: value}}, "" for a series without it.

        Raises ``SourceError``.
        """
        key = (tuple(texts.values()), label)
        return self._remembered(
            key, lambda: self._all({name: self._instant(text, label) for name, text in texts.items()})
        )

    def health(self) -> Health:
        """Return whether Prometheus answers, and the alerts that fire."""

        def ask() -> Health:
            try:
                self._all({"now": self._time})
            except SourceError as error:
                return Health(problem=str(error))
            try:
                return Health(self._all({"": self._client.alerts})[""])
            except SourceError as error:
                return Health(no_alerts=str(error))

        return self._remembered("health", ask)

    def close(self) -> None:
        """Close connections and stop threads."""
        self._client.close()

    def _remembered(self, key: object, ask: Callable[[], _T]) -> _T:
        now = self._clock()
        with self._lock:
            until, answer = self._kept.get(key, (now, None))
            if until > now:
                return answer  # type: ignore[no-any-return]
        answer = ask()
        with self._lock:
            self._kept = {other: entry for other, entry in self._kept.items() if entry[0] > now}
            while len(self._kept) >= MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = (self._clock() + KEPT, answer)
        return answer

    def _all(self, asks: Mapping[str, Callable[[], _T]]) -> dict[str, _T]:
        """Run all queries, a few in parallel, within ``timeout`` together."""
        asked = [self._client.submit(ask) for ask in asks.values()]
        return dict(zip(asks, self._client.answers(asked), strict=True))

    def _time(self) -> float:
        return self._client.moment(queries.TIME)[1]

    def _range(self, text: str, at: Grid) -> Callable[[], Points]:
        return lambda: next(
            iter(self._client.range(queries.ranges, text, (at.start, at.end), at.step).values()), []
        )

    def _instant(self, text: str, label: str) -> Callable[[], dict[str, float]]:
        return lambda: self._client.instant(lambda series: queries.values(series, label), text)
