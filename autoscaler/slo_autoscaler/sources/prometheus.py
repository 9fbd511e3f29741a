"""Observations from Prometheus' HTTP API.

Owns the requests and the translation of what can go wrong with them; the queries and the reading of answers
are ``promql``'s. There are no retries: the next reconcile asks again, and until then every function holds.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests import RequestException

from slo_autoscaler import promql
from slo_autoscaler.config import PrometheusConfig
from slo_autoscaler.errors import SourceError, brief
from slo_autoscaler.model import GatewaySlos, Observation

CONCURRENT_QUERIES: Final = 4
"""Enough to hide the round trips; few enough not to crowd a shared Prometheus."""


class PrometheusSource:
    """Asks for every signal of all functions at once, a few queries at a time."""

    def __init__(self, config: PrometheusConfig, gateway: GatewaySlos | None = None) -> None:
        """``gateway``: the functions that have no batching watchdog, and their SLOs."""
        self._config = config
        self._gateway = gateway or GatewaySlos()
        self._queries = promql.queries(config.window, config.rate_window)
        self._gateway_queries = promql.gateway_queries(config.window, config.rate_window, self._gateway)
        self._connection = PrometheusConnect(url=config.url, timeout=config.timeout, retry=0)
        self._pool = ThreadPoolExecutor(CONCURRENT_QUERIES, thread_name_prefix="prometheus")

    def observe(self) -> dict[str, Observation]:
        """Return the current observation of every function; ``SourceError`` if any query fails."""
        texts = [*self._queries.values(), *self._gateway_queries.values()]
        answers = list(self._pool.map(self._ask, texts))
        own = dict(zip(self._queries, answers, strict=False))
        theirs = dict(zip(self._gateway_queries, answers[len(own) :], strict=True))
        return promql.observations(own) | promql.gateway_observations(theirs, self._gateway)

    def close(self) -> None:
        """Give up connections and threads."""
        self._pool.shutdown(cancel_futures=True)
        self._connection.close()

    def _ask(self, query: str) -> dict[str, float]:
        try:
            return promql.parse(self._connection.custom_query(query))
        except SourceError as error:
            raise SourceError(f"{self._config.url}: wrong answer to {query}: {error}") from error
        except (RequestException, PrometheusApiClientException, ValueError, LookupError, TypeError) as error:
            # The client reads data.result without looking, so a wrong answer is a KeyError or TypeError.
            raise SourceError(f"{self._config.url}: {brief(error)}") from error
