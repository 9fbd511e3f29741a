"""Queries observations from Prometheus' HTTP API.

Owns the requests, their common time limit, and the conversion of errors; ``queries`` has the queries and
reads the answers. There are no retries: the next reconcile queries again, and until then every function
holds.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests import JSONDecodeError, RequestException, Response, Session

from slo_autoscaler.errors import SourceError, brief
from slo_autoscaler.http.session import Authorization, Secret, open_session
from slo_autoscaler.logs import Changes
from slo_autoscaler.settings.spec import GatewaySlos
from slo_autoscaler.signals import answers, queries
from slo_autoscaler.signals.queries import Points, Series
from slo_autoscaler.signals.record import Observation, Recorded
from slo_autoscaler.signals.source import Earlier, Settings
from slo_autoscaler.signals.window import Past, widened

logger = logging.getLogger(__name__)

CONCURRENT_QUERIES: Final = 4
"""Parallel queries of a client: enough to hide the round trips, few enough for a shared Prometheus."""

T = TypeVar("T")
Take = Callable[[Iterable[Series]], T]
"""Function of ``queries`` that makes something of the series of an answer."""

RECONCILES_BETWEEN: Final = 60
"""Reconciles between two queries of an expensive signal: five minutes at the default interval."""

EARLIER_STEPS: Final = 30
"""Maximum steps of a range around an earlier moment: 300,000 numbers for 10,000 functions."""

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


class PrometheusClient:
    """Sends queries to one Prometheus, a few in parallel, within a time limit; raises one kind of error."""

    def __init__(self, config: Settings, name: str) -> None:
        """Raises ``ConfigError`` if a file with credentials is missing. ``name`` is the threads'."""
        self._url = config.url
        self._timeout = config.timeout
        self._matchers = config.matchers
        self._partial: str | None = None
        """Warning of an answer that lacks the data of some store."""
        self._session = _session(config, self._note_partial)
        self._connection = _connection(config, self._session)
        self._pool = ThreadPoolExecutor(CONCURRENT_QUERIES, thread_name_prefix=name)

    def submit(self, ask: Callable[..., T], *arguments: object) -> Future[T]:
        """Call ``ask`` in a thread; it sends its queries by the next two methods."""
        return self._pool.submit(ask, *arguments)

    def instant(self, take: Take[T], query: str, params: Mapping[str, float] | None = None) -> T:
        """Return what ``take`` makes of the answer to an instant query. Raises ``SourceError``."""
        query = queries.narrowed(query, self._matchers)
        return self._read(lambda: take(queries.read(self._connection.custom_query(query, params))), query)

    def range(self, take: Take[T], query: str, span: tuple[float, float], step: float) -> T:
        """Likewise of the answer to a range query; ``span`` is Unix seconds. Raises ``SourceError``."""
        query = queries.narrowed(query, self._matchers)
        # The client rounds to seconds: a rate at the next one would lack what is still to come.
        start, end = (datetime.fromtimestamp(math.floor(when), UTC) for when in span)
        ask = partial(self._connection.custom_query_range, query, start, end, f"{step:g}")
        return self._read(lambda: take(queries.read(ask())), query)

    def alerts(self) -> list[queries.Firing]:
        """Return the alerts of the shipped rules that fire. Raises ``SourceError``.

        A query of ALERTS would have neither their values nor their summaries.
        """

        def ask() -> list[queries.Firing]:
            answer = self._session.get(self._url + queries.ALERTS, timeout=self._timeout)
            answer.raise_for_status()
            return queries.firing(answer.json()["data"]["alerts"], self._matchers)

        return self._read(ask, queries.ALERTS)

    def moment(self, query: str, params: Mapping[str, float] | None = None) -> tuple[float, float]:
        """Return (Unix time by Prometheus' clock, value) of a query of one number. Raises ``SourceError``."""
        for _, points in self.instant(list, query, params):
            return points[0]
        raise SourceError(f"{self._url}: wrong answer to {query}: expected a number, got none")

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
        self._connection.close()

    def take_partial(self) -> str | None:
        """Return the warning of an answer, since the last call, that lacks the data of some store."""
        warning, self._partial = self._partial, None
        return warning

    def _note_partial(self, response: Response, **_: object) -> None:
        # A value cannot hold these: its quotes have backslashes. So hardly any answer is parsed twice.
        if _PARTIAL in response.content:
            self._partial = "isPartial is true"
        if _WARNINGS not in response.content:
            return
        with suppress(*_FOREIGN):
            warnings = (text for text in response.json()["warnings"] if not text.startswith(_ABOUT_QUERY))
            self._partial = next(warnings, self._partial)

    def _read(self, ask: Callable[[], T], query: str) -> T:
        """Return what ``ask`` returns; turn every error of the client into a ``SourceError``."""
        try:
            return ask()
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
_PARTIAL: Final = b'"isPartial":true'
"""Key of an answer to which not every storage node of a VictoriaMetrics cluster has contributed."""
_ABOUT_QUERY: Final = "PromQL "
"""Begin of a warning about the query itself."""


def _session(config: Settings, check: Callable[..., None]) -> Session:
    """Return a session with the configured credentials. Raises ``ConfigError`` if a file is missing."""
    auth = None
    if config.bearer_token_file is not None:
        auth = Authorization(Secret("prometheus.bearer_token_file", config.bearer_token_file))
    elif config.basic_auth is not None:
        password = Secret("prometheus.basic_auth.password_file", config.basic_auth.password_file)
        auth = Authorization(password, config.basic_auth.username)
    session = open_session(config.url, "prometheus", tls=config.tls, auth=auth, headers=config.headers)
    session.hooks["response"] = [_refuse, check]
    return session


def _connection(config: Settings, session: Session) -> PrometheusConnect:
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
        identity: str = "",
    ) -> None:
        """``gateway``: the functions that have no batching watchdog, and their SLOs.

        ``identity``: this autoscaler's, as it exports it; its history is of no other one.

        ``at`` returns the time (Unix seconds) to evaluate at; None is Prometheus' own now. Raises
        ``ConfigError`` if a file with credentials is missing.
        """
        self._config = config
        self._at = at
        self._identity = identity
        self._gateway = gateway or GatewaySlos()
        self._queries = self._filled(queries.WATCHDOG)
        self._gateway_queries = queries.gateway(self._gateway, config.rate_window, config.window)
        texts = [texts_of.pop(queries.SELDOM, None) for texts_of in (self._queries, self._gateway_queries)]
        ratios = " or ".join(f"({text})" for text in texts if text)
        self._ratios = _Seldom(lambda: self._asked({"": ratios})[""])
        self._clusters = _Seldom(self._ask_clusters)
        self._leaders = _Seldom(lambda: self._asked({"": queries.SEVERAL_LEADERS})[""])
        self._corrections_query = self._filled({"": queries.CORRECTIONS})
        self._corrections = answers.Corrections()
        """The last ones."""
        self._past: dict[str, Past] = {}
        """Of functions whose rates are taken over more than the window of the queries."""
        self._repeated: Collection[str] = frozenset()
        """The pages that were scraped more than once, as logged."""
        self._said = Changes(logger)
        self._client = PrometheusClient(config, "prometheus")

    def observe(self) -> dict[str, Observation]:
        """Return the current observation of every function; ``SourceError`` if any query fails.

        All queries together have ``timeout``. A late query is abandoned; it ends when its socket has been
        silent for as long. Until then it holds one of a few threads, so late queries cannot pile up.
        """
        end = time.monotonic() + self._config.timeout
        self._client.take_partial()  # of queries for other times
        own = self._asked(self._queries, queries.signals)
        theirs = self._asked(self._gateway_queries, queries.signals)
        (corrections,) = self._asked(self._corrections_query).values()
        self._client.answers([corrections, *own.values(), *theirs.values()], end)
        self._corrections = answers.Corrections.of(corrections.result())
        self._advise_jobs(end)
        ratios = {queries.SELDOM: self._ratios.poll()}
        self._advise("scrapes", self._scrape_advice(ratios[queries.SELDOM]))
        self._advise("clusters", answers.cluster_advice(self._clusters.poll()))
        self._advise("leaders", answers.leader_advice(self._leaders.poll()))
        signals = {signal: query.result() for signal, query in own.items()} | ratios
        signals |= self._with_new(signals, self._corrections.corrected, end)
        seen = answers.observations(self._corrections.once(signals, watchdog=True))
        signals = {signal: query.result() for signal, query in theirs.items()} | ratios
        seen |= answers.gateway_observations(self._corrections.once(signals, watchdog=False), self._gateway)
        partial = self._client.take_partial()
        text = f"Prometheus' answers are partial, so nothing is scaled down: {partial}"
        self._advise("partial", None if partial is None else text)
        if partial is not None:
            # Queries may lack different stores: no count of replicas proves that the rates have them all.
            seen = {name: replace(observation, rated_replicas=0.0) for name, observation in seen.items()}
        return self._widened(seen)

    def history(self, span: float) -> dict[str, Recorded]:
        """Return the history of the last ``span`` seconds, one value per scrape, within ``timeout``.

        An exported value has one entry, from the last scrape of an autoscaler within an hour. Ages are by
        Prometheus' own clock, so that clocks need not agree.
        """
        (recorded,) = self._client.answers([self._client.submit(self._ask_history, span)])
        return recorded  # type: ignore[no-any-return]

    def earlier(self, ages: Sequence[float], span: float) -> dict[str, dict[float, Earlier]]:
        """Return the arrivals around earlier moments, by one range query each, within ``timeout``."""
        asked = [self._client.submit(self._ask_earlier, age, span) for age in ages]
        return answers.earlier(dict(zip(ages, self._client.answers(asked), strict=True)))

    def gateways(self) -> dict[str, set[str]]:
        """Return {address: functions} of the scraped gateways, within ``timeout``."""
        functions: dict[str, set[str]] = {}
        for address, name in self._places(queries.GATEWAYS):
            functions.setdefault(address, set()).add(name)
        return functions

    def watchdogs(self) -> dict[str, str]:
        """Return {address: function} of the scraped replicas, within ``timeout``."""
        return dict(self._places(queries.WATCHDOGS))

    def close(self) -> None:
        """Close connections and stop threads."""
        self._client.close()

    def _filled(self, texts: Mapping[str, str], functions: str = queries.ANY) -> dict[str, str]:
        spans = self._config.rate_window, self._config.window
        return queries.fill(texts, *spans, functions=functions, identity=self._identity)

    def _asked(
        self, texts: Mapping[str, str], take: Take[dict[str, float]] = queries.values
    ) -> dict[str, Future[dict[str, float]]]:
        ask, params = self._client.instant, self._time()
        return {signal: self._client.submit(ask, take, text, params) for signal, text in texts.items()}

    def _with_new(
        self, signals: Mapping[str, dict[str, float]], names: Collection[str], end: float
    ) -> dict[str, dict[str, float]]:
        """Return the signals that miss new replicas, corrected for functions that have some."""
        if not names:
            return {}
        chosen = queries.ANY if len(names) > queries.MOST_NAMED else queries.matching(names)
        asked = self._asked(self._filled(queries.NEW, chosen), queries.signals)
        self._client.answers([*asked.values()], end)
        return {signal: signals.get(signal, {}) | query.result() for signal, query in asked.items()}

    def _widened(self, seen: Mapping[str, Observation]) -> dict[str, Observation]:
        """Return the observations with the rates of slow functions over longer windows."""
        now, shortest = time.monotonic(), self._config.rate_window
        both = {
            name: widened(self._past.get(name, ()), observation, shortest, now)
            for name, observation in seen.items()
        }
        self._past = {name: past for name, (_, past) in both.items() if past}
        return {name: observation for name, (observation, _) in both.items()}

    def _advise_jobs(self, end: float) -> None:
        """Log the pages that are scraped more than once, with the jobs, when they change."""
        pages = self._corrections.scrapes.keys()
        if pages and pages != self._repeated:
            query = self._corrections.jobs_query()
            asked = self._client.submit(self._client.instant, queries.jobs, query, self._time())
            (jobs,) = self._client.answers([asked], end)
            logger.warning("%s", self._corrections.advice(jobs))
        self._repeated = pages

    def _scrape_advice(self, ratios: Mapping[str, float]) -> str | None:
        return answers.scrape_advice(ratios, self._config.scrape_interval, self._config.max_age)

    def _advise(self, topic: str, advice: str | None) -> None:
        """Log once the settings to change."""
        if advice is None:
            self._said.over(topic)
        else:
            self._said.say(topic, advice)

    def _ask_clusters(self) -> Future[dict[str, dict[str, set[str]]]]:
        query = queries.SEVERAL_CLUSTERS
        return self._client.submit(self._client.instant, queries.clusters, query, self._time())

    def _places(self, query: str) -> list[tuple[str, str]]:
        asked = self._client.submit(self._client.instant, queries.places, query, self._time())
        (pairs,) = self._client.answers([asked])
        return pairs  # type: ignore[no-any-return]

    def _ask_history(self, span: float) -> dict[str, Recorded]:
        window = self._config.rate_window
        (text,) = self._filled({"": queries.EXPORTED_AT}).values()
        now, exported = self._client.moment(text, self._time())
        ranges = {"rate": self._ask_arrivals(window, (now - span, now), self._config.scrape_interval)}
        for field, text in self._filled(queries.RESTORED).items() if exported else ():
            values = self._client.instant(queries.values, text, {"time": exported})
            ranges[field] = {name: ((exported, value),) for name, value in values.items()}
        return answers.recorded(ranges, now)

    def _ask_earlier(self, age: float, span: float) -> tuple[float, dict[str, Points]]:
        now, _ = self._client.moment(queries.TIME, self._time())
        step = max(self._config.rate_window, 2.0 * span / EARLIER_STEPS)
        return now - age, self._ask_arrivals(step, (now - age - span, min(now, now - age + span)), step)

    def _ask_arrivals(self, window: float, span: tuple[float, float], step: float) -> dict[str, Points]:
        """Return rates of the past; as many jobs count as scraping then as do now."""
        rates = self._client.range(queries.ranges, queries.arrivals(window, self._gateway), span, step)
        corrections, slos = self._corrections, self._gateway
        if not corrections.scrapes:
            return rates
        factors = {name: corrections.factor(name, "rate", watchdog=slos.of(name) is None) for name in rates}
        return {
            name: tuple((when, rate / factors[name]) for when, rate in points)
            for name, points in rates.items()
        }

    def _time(self) -> dict[str, float]:
        return {} if self._at is None else {"time": self._at()}


class _Seldom(Generic[T]):
    """An expensive query of what changes slowly, sent once in ``RECONCILES_BETWEEN`` reconciles.

    No reconcile waits for it or fails because of it; without an answer nothing is known.
    """

    def __init__(self, ask: Callable[[], Future[dict[str, T]]]) -> None:
        self._ask = ask
        self._asked: Future[dict[str, T]] | None = None
        self._known: dict[str, T] = {}
        self._until_next = 0

    def poll(self) -> dict[str, T]:
        """Return the last answer, {function_name: value}; query again when due."""
        asked = self._asked
        if asked is not None and asked.done():
            self._known = {} if asked.cancelled() or asked.exception() else asked.result()
            self._asked = None
            # Without any answer the replicas are too new: query again soon.
            self._until_next = RECONCILES_BETWEEN if self._known else 1
        self._until_next -= 1
        if self._until_next < 0 and self._asked is None:
            self._asked = self._ask()
        return self._known
