"""Reads the load each second from the pages that Prometheus scrapes, to see a step seconds earlier.

Owns the thread, and the limits of each page. Prometheus' label ``instance`` gives the
addresses; while Prometheus is down, the platform. It sees nothing where these are not reachable. A gateway's
page covers all functions; watchdogs are read for functions that no gateway has. ``counters`` interprets the
pages. The result may raise the assumed load, never lower it.
"""

import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final, Protocol

from slo_autoscaler.errors import SourceError, brief
from slo_autoscaler.http.pages import FAILURES, fetched
from slo_autoscaler.logs import Changes
from slo_autoscaler.signals import counters
from slo_autoscaler.signals.source import Load

logger = logging.getLogger(__name__)

AGAIN: Final = 0.3
"""Seconds after which a page is read again whose load rises: the first read of a step shows part of it."""
EARLY: Final = 0.8
"""Share of the interval after which other pages are due: not in a round before its end."""
LISTING: Final = 5.0
"""Seconds between two queries for the addresses of the pages: about the scrape interval."""
READ_SECONDS: Final = 1.0
"""Time limit of one page in seconds; most take milliseconds."""
CONCURRENT_READS: Final = 8
READS_OF_NAMESPACE: Final = CONCURRENT_READS // 2
"""Maximum pages of one namespace that are read at a time: a tenant's that hang leave readers for others."""
MOST_PAGES: Final = 100
"""Maximum pages of watchdogs per round: each costs its watchdog about 2 ms of CPU, and this process 0.5 ms.
Further pages are read in the next rounds."""
BYTES_PER_SECOND: Final = 4 * 2**20
"""Maximum of one page: a gateway's with 10,000 functions has 13 MB, which is read every three seconds."""
GIVEN_UP: Final = 10.0
"""Seconds after which a page that could not be read is tried again."""
LARGEST: Final = 64 * 2**20
"""Bytes of a gateway's page: four times that of 10,000 functions."""
LARGEST_OF_REPLICA: Final = 2**18
"""Bytes of a watchdog's page, which has some 25 kB for each class. The function's author writes it."""
REPLICA_BYTES_PER_SECOND: Final = 2**16
"""Maximum of one such page: the patterns take 40 ns of CPU a byte."""
STALE: Final = 10.0
"""Seconds after which the counts of a page expire."""

_ADDRESS: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


class Listing(Protocol):
    """The addresses of the pages. Both methods raise ``SourceError``."""

    def gateways(self) -> Mapping[str, Collection[str]]:
        """Return {address: functions} of the gateways."""

    def watchdogs(self) -> Mapping[str, str]:
        """Return {address: function} of the replicas with our watchdog."""


@dataclass(slots=True)
class _Page:
    """One page, with its last counts."""

    address: str
    function_name: str | None
    """Function of a watchdog's page; None: a gateway's page, of many functions."""
    counted: counters.Page = field(default_factory=counters.Page)
    due: float = 0.0
    reading: Future[None] | None = None
    read_at: float = 0.0
    inside: Mapping[str, float] = field(default_factory=dict)
    """Requests inside, by function."""
    told: Mapping[str, float] = field(default_factory=dict)
    """What a watchdog's page tells of its replica."""
    rises: bool = False
    """Whether the load rises by its last two counts."""
    identity: float | None = None
    """Equal on two pages that are one, at two addresses; None: unknown."""

    @property
    def namespace(self) -> str:
        """Return the namespace of a watchdog's function; empty for a gateway's page."""
        return (self.function_name or "").rpartition(".")[2]

    @property
    def under_way(self) -> bool:
        """Return whether it is being read."""
        return self.reading is not None and not self.reading.done()


class Direct:
    """Reads the pages every ``interval`` seconds from ``start`` to ``close``."""

    def __init__(
        self,
        listing: Listing,
        interval: float,
        watchdogs: Callable[[], Mapping[str, str]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``watchdogs`` returns {address: function} of replicas while ``listing`` fails."""
        self._listing = listing
        self._watchdogs = watchdogs
        self._interval = interval
        self._clock = clock
        self._pages: dict[str, _Page] = {}
        self._listed_at: float | None = None
        self._asking: Future[Mapping[str, str | None]] | None = None
        self._wanted: Collection[str] = ()
        self._loads: tuple[float, Mapping[str, Load]] = (0.0, {})
        self._said = Changes(logger)
        self._polled: Callable[[], object] = lambda: None
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(CONCURRENT_READS, thread_name_prefix="direct")
        self._thread = threading.Thread(target=self._run, name="direct", daemon=True)

    def start(self, polled: Callable[[], object] = lambda: None) -> None:
        """Begin to poll, and call ``polled`` after each round; it must not wait."""
        self._polled = polled
        self._thread.start()

    def close(self) -> None:
        """Stop reading, without waiting for requests under way."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def watch(self, function_names: Collection[str]) -> None:
        """Read these functions from now on."""
        self._wanted = function_names

    def loads(self) -> Mapping[str, Load]:
        """Return {function_name: its load} by the last round.

        Functions without a readable page are absent.
        """
        polled_at, loads = self._loads
        return loads if self._clock() - polled_at <= STALE else {}

    def poll(self) -> float:
        """Read the due pages, for at most ``READ_SECONDS``; skip pages that fail.

        Return the seconds until the next round: ``AGAIN`` if a load rises.
        """
        now = self._clock()
        self._list(now)
        end = time.monotonic() + READ_SECONDS
        due = sorted((page for page in self._pages.values() if page.due <= now), key=lambda page: page.due)
        free = [page for page in due if not page.under_way]
        gateways = [page for page in free if page.function_name is None]
        for page in gateways:
            page.reading = self._pool.submit(self._read, page)
        self._read_in_turns([page for page in free if page.function_name is not None], end)
        wait([page.reading for page in gateways if page.reading], max(0.0, end - time.monotonic()))
        self._loads = (self._clock(), self._summed())
        return min(map(self._pause, self._pages.values()), default=self._interval)

    def _read_in_turns(self, replicas: Iterable[_Page], end: float) -> None:
        """Read these pages until ``end`` on the monotonic clock, of each namespace a few at a time."""
        waiting: dict[str, deque[_Page]] = {}
        for page in replicas:
            waiting.setdefault(page.namespace, deque()).append(page)
        held = Counter(page.namespace for page in self._pages.values() if page.under_way)
        reading: dict[Future[None], str] = {}
        left = MOST_PAGES
        while True:
            for namespace, pages in waiting.items():
                while pages and left and held[namespace] < READS_OF_NAMESPACE:
                    page = pages.popleft()
                    page.reading = self._pool.submit(self._read, page)
                    reading[page.reading] = namespace
                    held[namespace] += 1
                    left -= 1
            seconds = end - time.monotonic()
            if not reading or seconds <= 0.0:
                return
            for read in wait(reading, seconds, FIRST_COMPLETED).done:
                held[reading.pop(read)] -= 1

    def _run(self) -> None:
        due = self._clock()
        while not self._stop.is_set():
            pause = self._interval
            try:
                pause = self.poll()
                self._polled()
            except Exception:
                if self._stop.is_set():
                    return
                logger.exception("direct reads failed")
            due = max(due + pause, self._clock())
            self._stop.wait(due - self._clock())

    def _pause(self, page: _Page) -> float:
        """Return the seconds between two reads of a page."""
        return min(AGAIN, self._interval) if page.rises else self._interval

    def _list(self, now: float) -> None:
        """Query the addresses of the pages; without an answer keep the known ones, and ask the platform."""
        if self._asking is not None and self._asking.done():
            addresses, self._asking = self._asking.result(), None
            self._pages = {
                address: self._known(address, name)
                for address, name in addresses.items()
                if _ADDRESS.fullmatch(address)
            }
            self._said.keep(self._pages.keys())
        if self._asking is None and (self._listed_at is None or now - self._listed_at >= LISTING):
            self._listed_at = now
            self._asking = self._pool.submit(self._ask)

    def _ask(self) -> Mapping[str, str | None]:
        try:
            gateways = self._listing.gateways()
            unseen = set(self._wanted).difference(*gateways.values())
            watchdogs = self._listing.watchdogs() if unseen else {}
        except SourceError:
            # The reconcile logs the same error.
            listed = {address: page.function_name for address, page in self._pages.items()}
            return listed | {
                address: name for address, name in self._watchdogs().items() if name in self._wanted
            }
        return {address: name for address, name in watchdogs.items() if name in unseen} | dict.fromkeys(
            gateways
        )

    def _known(self, address: str, name: str | None) -> _Page:
        page = self._pages.get(address)
        return page if page is not None and page.function_name == name else _Page(address, name)

    def _read(self, page: _Page) -> None:
        began = self._clock()
        try:
            gateway = page.function_name is None
            largest, pace = (
                (LARGEST, BYTES_PER_SECOND) if gateway else (LARGEST_OF_REPLICA, REPLICA_BYTES_PER_SECOND)
            )
            text = fetched(page.address, READ_SECONDS, largest)
        except FAILURES as error:
            page.counted = counters.Page()
            page.rises = False
            page.due = self._clock() + GIVEN_UP
            failure = f"{page.address}: cannot read the load directly: {brief(error)}"
            self._said.say(page.address, failure, state="lost", level=logging.INFO)
            return
        self._said.over(page.address)
        if page.function_name is None:
            page.counted.add(began, counters.started(text))
            page.inside = counters.unfinished(text)
        else:
            page.counted.add(began, counters.arrived(text))
            page.inside = counters.inside(text)
            page.identity, page.told = counters.identity(text), counters.told(text)
        page.read_at = began
        page.rises = page.counted.rises()
        page.due = began + max(EARLY * self._pause(page), len(text) / pace)

    def _summed(self) -> Mapping[str, Load]:
        now, rates = self._clock(), dict[str, float]()
        pages = [
            page
            for page in self._pages.values()
            if page.reading is not None and page.reading.done() and now - page.read_at <= STALE
        ]
        # By function: another one's page may tell the same identity.
        latest = {(page.function_name, page.identity or page.address): page for page in pages}
        pages = list(latest.values())
        for span in counters.SPANS:
            arrivals_of: dict[str, list[tuple[float, float]]] = {}
            for page in pages:
                for name, counted in page.counted.arrivals(span).items():
                    arrivals_of.setdefault(page.function_name or name, []).append(counted)
            for name, arrivals in arrivals_of.items():
                rates[name] = max(rates.get(name, 0.0), counters.surely(arrivals))
        inside: dict[str, float] = {}
        told: dict[str, list[Mapping[str, float]]] = {}
        for page in pages:
            for within, count in page.inside.items():
                key = page.function_name or within
                inside[key] = inside.get(key, 0.0) + count
            if page.told and page.function_name is not None:
                told.setdefault(page.function_name, []).append(page.told)
        loads: dict[str, Load] = {}
        for name, rate in rates.items():
            count = inside.get(name, 0.0)
            seen = counters.observed(rate, count, told[name]) if name in told else None
            loads[name] = Load(rate, count, seen)
        return loads
