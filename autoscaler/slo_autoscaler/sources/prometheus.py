"""Observations from Prometheus' HTTP API.

Owns the requests, the time that they may take together, and the translation of what can go wrong with them;
the queries and the reading of answers are ``promql``'s. There are no retries: the next reconcile asks again,
and until then every function holds.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Final

from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests import RequestException

from slo_autoscaler.errors import SourceError, brief
from slo_autoscaler.law.restart import Past
from slo_autoscaler.signals import Observation
from slo_autoscaler.sources import Settings, promql
from slo_autoscaler.spec import GatewaySlos

CONCURRENT_QUERIES: Final = 4
"""Enough to hide the round trips; few enough not to crowd a shared Prometheus."""

FOREIGN: Final = (
    RequestException,
    PrometheusApiClientException,
    AttributeError,
    LookupError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What the client raises; it reads data.result without looking, so a wrong answer is any of these."""


class PrometheusSource:
    """Asks for every signal of all functions at once, a few queries at a time."""

    def __init__(
        self,
        config: Settings,
        gateway: GatewaySlos | None = None,
        at: Callable[[], float] | None = None,
    ) -> None:
        """``gateway``: the functions that have no batching watchdog, and their SLOs.

        ``at`` gives the time (Unix seconds) to look at; without it, it is Prometheus' own now.
        """
        self._config = config
        self._at = at
        self._gateway = gateway or GatewaySlos()
        self._queries = promql.queries(config.window, config.rate_window)
        self._gateway_queries = promql.gateway_queries(config.window, config.rate_window, self._gateway)
        self._connection = PrometheusConnect(url=config.url, timeout=config.timeout, retry=0)
        self._pool = ThreadPoolExecutor(CONCURRENT_QUERIES, thread_name_prefix="prometheus")

    def observe(self) -> dict[str, Observation]:
        """Return the current observation of every function; ``SourceError`` if any query fails.

        All queries together have ``timeout``. A query that is late is left to itself: it ends when its
        socket falls silent for as long. Until then it has one of a few threads: late queries cannot pile up.
        """
        params = {} if self._at is None else {"time": self._at()}
        own = self._asked(self._queries, params)
        theirs = self._asked(self._gateway_queries, params)
        asked = [*own.values(), *theirs.values()]
        done, late = wait(asked, self._config.timeout, FIRST_EXCEPTION)
        for query in late:
            query.cancel()
        failed = next((query for query in asked if query in done and query.exception()), None)
        if failed is not None:
            failed.result()
        if late:
            raise SourceError(
                f"{self._config.url}: {len(late)} of {len(asked)} queries not answered within"
                f" {self._config.timeout:g} s"
            )
        seen = promql.observations({signal: query.result() for signal, query in own.items()})
        answers = {signal: query.result() for signal, query in theirs.items()}
        return seen | promql.gateway_observations(answers, self._gateway)

    def history(self, span: float) -> dict[str, Past]:
        """Return what is known of the last ``span`` seconds, one value for each scrape, within ``timeout``.

        By Prometheus' own clock, so that clocks need not agree.
        """
        asked = self._pool.submit(self._ask_history, span)
        wait([asked], self._config.timeout)
        if asked.cancel() or not asked.done():
            raise SourceError(f"{self._config.url}: no history within {self._config.timeout:g} s")
        return asked.result()

    def close(self) -> None:
        """Give up connections and threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._connection.close()

    def _asked(
        self, queries: Mapping[str, str], params: dict[str, float]
    ) -> dict[str, Future[dict[str, float]]]:
        return {signal: self._pool.submit(self._ask, text, params) for signal, text in queries.items()}

    def _ask(self, query: str, params: dict[str, float]) -> dict[str, float]:
        try:
            return promql.parse(self._connection.custom_query(query, params))
        except SourceError as error:
            raise SourceError(f"{self._config.url}: wrong answer to {query}: {error}") from error
        except FOREIGN as error:
            raise SourceError(f"{self._config.url}: {brief(error)}") from error

    def _ask_history(self, span: float) -> dict[str, Past]:
        try:
            now = float(self._connection.custom_query("time()")[1]) if self._at is None else self._at()
            start, end = (datetime.fromtimestamp(when, UTC) for when in (now - span, now))
            step = f"{self._config.scrape_interval:g}"
            queries = promql.history_queries(self._config.rate_window)
            ranges = {
                field: promql.parse_range(self._connection.custom_query_range(text, start, end, step), now)
                for field, text in queries.items()
            }
            return promql.pasts(ranges)
        except SourceError as error:
            raise SourceError(f"{self._config.url}: wrong answer: {error}") from error
        except FOREIGN as error:
            raise SourceError(f"{self._config.url}: {brief(error)}") from error
