"""Queries observations from Prometheus' HTTP API.

Owns the requests, their common time limit, and the conversion of errors; ``promql`` has the queries and
parses the answers. There are no retries: the next reconcile queries again, and until then every function
holds.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests import JSONDecodeError, RequestException, Response

from slo_autoscaler.errors import SourceError, brief
from slo_autoscaler.law.restart import Recorded
from slo_autoscaler.session import Authorization, Secret, open_session
from slo_autoscaler.signals import Observation
from slo_autoscaler.sources import Earlier, Settings, promql
from slo_autoscaler.spec import GatewaySlos

logger = logging.getLogger(__name__)

CONCURRENT_QUERIES: Final = 4
"""Parallel queries of a server: enough to hide the round trips, few enough for a shared Prometheus."""

T = TypeVar("T")

RECONCILES_BETWEEN: Final = 60
"""Reconciles between two queries of an expensive signal: five minutes at the default interval."""

_OTHER_SERVER: Final = (AttributeError, JSONDecodeError, LookupError, TypeError)
"""Errors that the client raises for an answer without data.result, which it reads unchecked."""

_FOREIGN: Final = (
    *_OTHER_SERVER,
    RequestException,
    PrometheusApiClientException,
    OverflowError,
    ValueError,
)
"""Errors that the client raises."""


class Server:
    """One Prometheus: a few queries in parallel, within a common time limit, with one kind of error."""

    def __init__(self, config: Settings, name: str) -> None:
        """Raises ``ConfigError`` if a file with credentials is missing. ``name`` is the threads'."""
        self._url = config.url
        self._timeout = config.timeout
        self._partial: str | None = None
        """Warning of an answer that lacks the data of some store."""
        self._client = _client(config, self._note_partial)
        self._pool = ThreadPoolExecutor(CONCURRENT_QUERIES, thread_name_prefix=name)

    def submit(self, ask: Callable[..., T], *arguments: object) -> Future[T]:
        """Call ``ask`` in a thread; it sends its queries by the next two methods."""
        return self._pool.submit(ask, *arguments)

    def instant(
        self, parse: Callable[[object], T], query: str, params: Mapping[str, float] | None = None
    ) -> T:
        """Return the parsed answer to an instant query. Raises ``SourceError``."""
        return self._read(lambda: parse(self._client.custom_query(query, params)), query)

    def range(self, parse: Callable[[object], T], query: str, span: tuple[float, float], step: float) -> T:
        """Return the parsed answer to a range query, in Unix seconds. Raises ``SourceError``."""
        # The client rounds to seconds: a rate at the next one would lack what is still to come.
        start, end = (datetime.fromtimestamp(math.floor(when), UTC) for when in span)
        return self._read(
            lambda: parse(self._client.custom_query_range(query, start, end, f"{step:g}")), query
        )

    def answers(self, asked: Sequence[Future[Any]], end: float | None = None) -> list[Any]:
        """Return all answers; raise ``SourceError`` if one fails or ``timeout`` passes first.

        ``end``, on the monotonic clock, is the end of the time that they share with others.
        """
        left = self._timeout if end is None else max(0.0, end - time.monotonic())
        done, late = wait(asked, left, FIRST_EXCEPTION)
        for query in late:
            query.cancel()
        failed = next((query for query in asked if query in done and query.exception()), None)
        if failed is not None:
            failed.result()
        if late:
            raise SourceError(
                f"{self._url}: {len(late)} of {len(asked)} queries not answered within {self._timeout:g} s"
            )
        return [query.result() for query in asked]

    def close(self) -> None:
        """Close connections and stop threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def take_partial(self) -> str | None:
        """Return the warning of an answer, since the last call, that lacks the data of some store."""
        found, self._partial = self._partial, None
        return found

    def _note_partial(self, response: Response, **_: object) -> None:
        # A value cannot hold this: its quotes have backslashes. So hardly any answer is parsed twice.
        if _WARNINGS not in response.content:
            return
        with suppress(*_FOREIGN):
            warnings = (text for text in response.json()["warnings"] if not text.startswith(_ABOUT_QUERY))
            self._partial = next(warnings, self._partial)

    def _read(self, answer: Callable[[], T], query: str) -> T:
        """Return the result of ``answer``; turn every error of the client into a ``SourceError``."""
        try:
            return answer()
        except SourceError as error:
            raise SourceError(f"{self._url}: wrong answer to {query}: {error}") from error
        except _OTHER_SERVER as error:
            # Such as a login page, or Grafana's port.
            rule = "not an answer of Prometheus; check prometheus.url"
            raise SourceError(f"{self._url}: {rule}: {brief(error)}") from error
        except _FOREIGN as error:
            raise SourceError(f"{self._url}: {brief(error)}") from error


_WARNINGS: Final = b'"warnings":['
"""Key of an answer to which not every store has contributed (Thanos, remote read), and of other advice."""
_ABOUT_QUERY: Final = "PromQL "
"""Begin of a warning about the query itself."""


def _client(config: Settings, check: Callable[..., None]) -> PrometheusConnect:
    """Return a client with the configured credentials. Raises ``ConfigError`` if a file is missing."""
    auth = None
    if config.bearer_token_file is not None:
        auth = Authorization(Secret("prometheus.bearer_token_file", config.bearer_token_file))
    elif config.basic_auth is not None:
        password = Secret("prometheus.basic_auth.password_file", config.basic_auth.password_file)
        auth = Authorization(password, config.basic_auth.username)
    session = open_session(config.url, "prometheus", tls=config.tls, auth=auth, headers=config.headers)
    session.hooks["response"] = [_refuse, check]
    adapter = session.get_adapter(config.url)
    connection = PrometheusConnect(url=config.url, timeout=config.timeout, retry=0, session=session)
    # The client has installed its own adapter there.
    session.mount(config.url, adapter)
    return connection


def _refuse(response: Response, **_: object) -> None:
    """Raise for redirects and refusals: credentials must not follow a redirect to another server."""
    status = response.status_code
    if response.is_redirect or status in (401, 403):
        response.close()
    if response.is_redirect:
        target = urlsplit(response.headers["Location"])
        where = f"{target.scheme}://{target.netloc.rpartition('@')[2]}" if target.netloc else "itself"
        raise RequestException(f"status {status}: redirects to {where}; redirects are not followed")
    if status in (401, 403):
        raise RequestException(f"status {status}: check bearer_token_file, basic_auth, headers and tls")


class PrometheusSource:
    """Queries every signal for all functions, a few queries in parallel."""

    def __init__(
        self,
        config: Settings,
        gateway: GatewaySlos | None = None,
        at: Callable[[], float] | None = None,
    ) -> None:
        """``gateway``: the functions that have no batching watchdog, and their SLOs.

        ``at`` returns the time (Unix seconds) to evaluate at; None is Prometheus' own now. Raises
        ``ConfigError`` if a file with credentials is missing.
        """
        self._config = config
        self._at = at
        self._gateway = gateway or GatewaySlos()
        self._queries = promql.queries(config.window, config.rate_window)
        self._corrections_query = promql.corrections(config.window, config.rate_window)
        self._corrections = promql.Corrections()
        """The last ones."""
        self._gateway_queries = promql.gateway_queries(config.window, config.rate_window, self._gateway)
        self._seldom = _Seldom(
            [
                promql.queries(config.window, config.rate_window, seldom=True),
                promql.gateway_queries(config.window, config.rate_window, self._gateway, seldom=True),
            ]
        )
        self._advised: dict[str, str | None] = {}
        """The last logged advice, by subject."""
        self._repeated: Collection[str] = frozenset()
        """The pages that were scraped more than once, as logged."""
        self._partial: str | None = None
        """The last warning of partial answers."""
        self._server = Server(config, "prometheus")

    def observe(self) -> dict[str, Observation]:
        """Return the current observation of every function; ``SourceError`` if any query fails.

        All queries together have ``timeout``. A late query is abandoned; it ends when its socket has been
        silent for as long. Until then it holds one of a few threads, so late queries cannot pile up.
        """
        end = time.monotonic() + self._config.timeout
        self._server.take_partial()  # of queries for other times
        own = self._asked(self._queries)
        theirs = self._asked(self._gateway_queries)
        (corrections,) = self._asked({"": self._corrections_query}).values()
        self._server.answers([corrections, *own.values(), *theirs.values()], end)
        self._corrections = promql.Corrections.of(corrections.result())
        self._advise_jobs(end)
        seldom = self._seldom.poll(self._asked)
        scrape_interval, max_age = self._config.scrape_interval, self._config.max_age
        ratios = seldom.get("scrape_ratio", {})
        self._advise("interval", promql.scrape_advice(ratios, scrape_interval, max_age))
        found = {signal: query.result() for signal, query in own.items()} | seldom
        found |= self._with_new(found, self._corrections.corrected, end)
        seen = promql.observations(self._corrections.once(found, watchdog=True))
        answers = {signal: query.result() for signal, query in theirs.items()} | seldom
        seen |= promql.gateway_observations(self._corrections.once(answers, watchdog=False), self._gateway)
        partial = self._server.take_partial()
        if partial != self._partial and partial is not None:
            logger.warning("Prometheus' answers are partial, so nothing is scaled down: %s", partial)
        self._partial = partial
        if partial is not None:
            # Queries may lack different stores: no count of replicas proves that the rates have them all.
            seen = {name: replace(each, rated_replicas=0.0) for name, each in seen.items()}
        return seen

    def history(self, span: float) -> dict[str, Recorded]:
        """Return the history of the last ``span`` seconds, one value per scrape, within ``timeout``.

        An exported value has one entry, from the last scrape of an autoscaler within an hour. Ages are by
        Prometheus' own clock, so that clocks need not agree.
        """
        (found,) = self._server.answers([self._server.submit(self._ask_history, span)])
        return promql.recorded(found)

    def earlier(self, ages: Sequence[float], span: float) -> dict[str, dict[float, Earlier]]:
        """Return the arrivals around earlier moments, by one range query each, within ``timeout``."""
        asked = [self._server.submit(self._ask_earlier, age, span) for age in ages]
        return promql.earlier(dict(zip(ages, self._server.answers(asked), strict=True)))

    def gateways(self) -> dict[str, set[str]]:
        """Return {address: functions} of the scraped gateways, within ``timeout``."""
        functions: dict[str, set[str]] = {}
        for address, name in self._places(promql.GATEWAYS):
            functions.setdefault(address, set()).add(name)
        return functions

    def watchdogs(self) -> dict[str, str]:
        """Return {address: function} of the scraped replicas, within ``timeout``."""
        return dict(self._places(promql.WATCHDOGS))

    def close(self) -> None:
        """Close connections and stop threads."""
        self._server.close()

    def _asked(self, queries: Mapping[str, str]) -> dict[str, Future[dict[str, float]]]:
        params = self._time()
        return {signal: self._server.submit(self._ask, text, params) for signal, text in queries.items()}

    def _with_new(
        self, found: Mapping[str, dict[str, float]], names: Collection[str], end: float
    ) -> dict[str, dict[str, float]]:
        """Return the signals that miss new replicas, corrected for functions that have some."""
        if not names:
            return {}
        asked = self._asked(promql.new_queries(names, self._config.window, self._config.rate_window))
        self._server.answers([*asked.values()], end)
        return {signal: found.get(signal, {}) | query.result() for signal, query in asked.items()}

    def _advise_jobs(self, end: float) -> None:
        """Log the pages that are scraped more than once, with the jobs, when they change."""
        pages = self._corrections.scrapes.keys()
        if pages and pages != self._repeated:
            query = self._corrections.jobs_query()
            asked = self._server.submit(self._server.instant, promql.jobs, query, self._time())
            logger.warning("%s", self._corrections.advice(*self._server.answers([asked], end)))
        self._repeated = pages

    def _advise(self, subject: str, advice: str | None) -> None:
        """Log once the settings to change."""
        if advice is not None and advice != self._advised.get(subject):
            logger.warning("%s", advice)
        self._advised[subject] = advice

    def _ask(self, query: str, params: Mapping[str, float]) -> dict[str, float]:
        return self._server.instant(promql.parse, query, params)

    def _places(self, query: str) -> list[tuple[str, str]]:
        asked = self._server.submit(self._server.instant, promql.places, query, self._time())
        found: list[tuple[str, str]]
        (found,) = self._server.answers([asked])
        return found

    def _ask_history(self, span: float) -> dict[str, Any]:
        window = self._config.rate_window
        now, exported = self._clock(promql.exported_at(window))
        texts = promql.history_queries(window, self._gateway)
        found = {
            field: self._ask_arrivals(text, now, (now - span, now), self._config.scrape_interval)
            for field, text in texts.items()
        }
        if math.isnan(exported):
            return found
        for field, text in promql.RESTORED.items():
            values = self._ask(text, {"time": exported})
            found[field] = {name: ((now - exported, value),) for name, value in values.items()}
        return found

    def _ask_earlier(self, age: float, span: float) -> dict[str, Any]:
        now, _ = self._clock("time()")
        step = max(self._config.rate_window, 2.0 * span / promql.EARLIER_STEPS)
        text = promql.arrivals(step, self._gateway)
        return self._ask_arrivals(text, now, (now - age - span, min(now, now - age + span)), step)

    def _ask_arrivals(
        self, query: str, now: float, span: tuple[float, float], step: float
    ) -> dict[str, tuple[tuple[float, float], ...]]:
        """Return rates of the past; as many jobs count as scraping then as do now."""
        found = self._server.range(lambda answer: promql.parse_range(answer, now), query, span, step)
        corrections, slos = self._corrections, self._gateway
        if not corrections.scrapes:
            return found
        factors = {name: corrections.factor(name, "rate", watchdog=slos.of(name) is None) for name in found}
        return {
            name: tuple((ago, rate / factors[name]) for ago, rate in points) for name, points in found.items()
        }

    def _clock(self, query: str) -> tuple[float, float]:
        """Return the time by Prometheus' clock, and the value of a scalar."""
        return self._server.instant(promql.parse_time, query, self._time())

    def _time(self) -> dict[str, float]:
        return {} if self._at is None else {"time": self._at()}


class _Seldom:
    """Queries expensive signals that change slowly, once in ``RECONCILES_BETWEEN`` reconciles.

    No reconcile waits for them or fails because of them; without an answer their signals are unknown.
    """

    def __init__(self, sets: Sequence[Mapping[str, str]]) -> None:
        self._sets = sets
        self._asked: list[tuple[str, Future[dict[str, float]]]] = []
        self._known: dict[str, dict[str, float]] = {}
        self._until_next = 0

    def poll(
        self, ask: Callable[[Mapping[str, str]], dict[str, Future[dict[str, float]]]]
    ) -> dict[str, dict[str, float]]:
        """Return the last answers, {signal: {function_name: value}}; query again when due."""
        if self._asked and all(query.done() for _, query in self._asked):
            self._known = {}
            for signal, query in self._asked:
                if not query.cancelled() and query.exception() is None:
                    self._known.setdefault(signal, {}).update(query.result())
            self._asked = []
            # Without any answer the replicas are too new: query again soon.
            self._until_next = RECONCILES_BETWEEN if any(self._known.values()) else 1
        self._until_next -= 1
        if self._until_next < 0 and not self._asked:
            self._asked = [item for queries in self._sets for item in ask(queries).items()]
        return self._known
