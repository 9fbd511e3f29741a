"""Adds the further metrics of functions (``also``) to another source's observations.

Owns their queries, which run beside the others in threads of their own: a slow or wrong one delays no signal,
and its metric is unknown. Each text is queried once for all functions.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace

from slo_autoscaler.errors import SourceError
from slo_autoscaler.logs import Changes
from slo_autoscaler.settings.spec import FurtherMetrics
from slo_autoscaler.signals import queries
from slo_autoscaler.signals.gate import admitted
from slo_autoscaler.signals.prometheus import PrometheusClient
from slo_autoscaler.signals.queries import Series
from slo_autoscaler.signals.record import Observation, Recorded
from slo_autoscaler.signals.source import Earlier, Settings, Source

logger = logging.getLogger(__name__)


class WithFurther:
    """A source, with the further metrics of its functions."""

    def __init__(self, source: Source, config: Settings, metrics: FurtherMetrics) -> None:
        """Raises ``ConfigError`` if a file with credentials is missing."""
        self._source = source
        self._timeout = config.timeout
        self._metrics = metrics
        # A query of the user's has the matchers that its author wrote.
        self._client = PrometheusClient(replace(config, matchers={}), "further")
        self._said = Changes(logger)

    def observe(self) -> dict[str, Observation]:
        """Return the source's observations with ``further``; raises as the source does."""
        end = time.monotonic() + self._timeout
        self._client.take_partial()
        asked = {text: self._client.submit(self._ask, text) for text in sorted(self._metrics.queries)}
        try:
            seen = self._source.observe()
            wait(asked.values(), max(0.0, end - time.monotonic()))
        finally:
            for query in asked.values():
                query.cancel()
        answers = {text: self._value(text, query) for text, query in asked.items()}
        if partial := self._client.take_partial():
            self._said.say("", f"further metrics: answers are partial, so nothing is scaled down: {partial}")
            seen = {
                name: replace(observation, rated_replicas=0.0) if self._metrics.of(name) else observation
                for name, observation in seen.items()
            }
        else:
            self._said.over("")
        return {name: self._joined(name, observation, answers) for name, observation in seen.items()}

    def history(self, span: float) -> dict[str, Recorded]:
        """Return the source's history."""
        return self._source.history(span)

    def earlier(self, ages: Sequence[float], span: float) -> dict[str, dict[float, Earlier]]:
        """Return the source's earlier arrivals."""
        return self._source.earlier(ages, span)

    def close(self) -> None:
        """Close connections and stop threads, not those of the source."""
        self._client.close()

    def _ask(self, text: str) -> dict[str, float]:
        return self._client.instant(values, text)

    def _value(self, text: str, query: Future[dict[str, float]]) -> Mapping[str, float]:
        """Return {function_name: value}, "" for all functions; nothing without an answer."""
        failure, values = "", dict[str, float]()
        if query.cancelled() or not query.done():
            failure = f"not answered within {self._timeout:g} s"
        elif (error := query.exception()) is not None:
            failure = str(error)
        else:
            values = query.result()
        if failure or text in self._said:
            self._said.say(text, f"further metric {text}: {failure or 'recovered'}")
        if not failure:
            self._said.over(text)
        return values

    def _joined(
        self, name: str, seen: Observation, by_query: Mapping[str, Mapping[str, float]]
    ) -> Observation:
        metrics = self._metrics.of(name)
        if not metrics:
            return seen
        answers = [by_query[metric.query] for metric in metrics]
        return admitted(replace(seen, further=tuple(answer.get(name, answer.get("")) for answer in answers)))


def values(answer: Iterable[Series]) -> dict[str, float]:
    """Return {function_name: value} of an instant vector; "" is the one series without that label.

    Raises ``SourceError`` for several such series.
    """
    series = list(answer)
    plain = sum(queries.FUNCTION_LABEL not in labels for labels, _ in series)
    if plain > 1:
        raise SourceError(f"{plain} series; needed: one, or the label {queries.FUNCTION_LABEL} on each")
    return queries.signals(series)
