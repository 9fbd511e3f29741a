"""Reads the pages of Knative's activators while a service has no replicas, or is on its way there.

Owns the thread, and the list of pods: those of the Deployment ``activator`` in Knative's own namespace, by
their owner. Labels name no activator, because a function's pods may have any. ``queues`` reads the pages.
"""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from slo_autoscaler.errors import PlatformError, brief
from slo_autoscaler.http.pages import FAILURES, fetched
from slo_autoscaler.kube.client import Document, KubeApi
from slo_autoscaler.kube.informer import Informer
from slo_autoscaler.kube.loop import Loop
from slo_autoscaler.kube.pods import ON_NODE, PODS, address_of, deployment_of
from slo_autoscaler.platforms.knative.allocation import CONFIG_NAMESPACE, Key
from slo_autoscaler.platforms.knative.queues import Queues, inside

PORT: Final = "9090"
"""Port of an activator's metrics."""
OFTEN: Final = 0.2
"""Seconds between two reads while a service has no replicas. The first request waits for the next read."""
SELDOM: Final = 5.0
"""Seconds between two reads while only their success matters."""
PATIENCE: Final = 3.0
"""Seconds from a failed read of an activator until it counts as lost."""
READ_SECONDS: Final = 1.0
LARGEST: Final = 64 * 2**20
"""Bytes of a page, which has some 20 kB for each revision."""
BYTES_PER_SECOND: Final = 8 * 2**20
"""Most that is read of one page in a second."""
CONCURRENT_READS: Final = 8


@dataclass(slots=True)
class _Page:
    """The page of one activator."""

    known_until: float
    read_at: float | None = None
    due: float = 0.0
    counts: Mapping[Key, float] = field(default_factory=dict)
    reading: Future[None] | None = None
    problem: str = ""
    """Why the last read failed."""


class Activators:
    """Knative's activators, which are watched from ``watch`` on."""

    def __init__(self, api: KubeApi, resync: float) -> None:
        """``resync`` is seconds between two complete lists of their pods."""
        self._api = api
        self._resync = resync
        self._pods: Informer[tuple[str, bool]] | None = None
        self._pages: dict[str, _Page] = {}
        self._queues = Queues(float("inf"))
        self._often = False
        self._problem = ""
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(CONCURRENT_READS, thread_name_prefix="activators")
        self._loop = Loop("activators", self.read)

    def watch(self) -> None:
        """Begin to read, unless that was done before."""
        with self._lock:
            if self._pods is None:
                self._queues = Queues(time.monotonic() + SELDOM + PATIENCE)
                self._pods = Informer(
                    *(self._api, PODS, (CONFIG_NAMESPACE,), activator_of),
                    query=ON_NODE,
                    resync=self._resync,
                    changed=self._loop.wake,
                )
                self._loop.start()

    def answer(self) -> bool:
        """Read every activator now; return whether that succeeded, within ``PATIENCE``."""
        self.watch()
        self._loop.wake()
        begin = time.monotonic()
        while not self._queues.read_since(begin) and time.monotonic() < begin + PATIENCE:
            time.sleep(OFTEN / 4)
        return self._queues.read_since(begin)

    def lost(self) -> bool:
        """Return whether an activator was not read for too long: a request may wait there."""
        return self._queues.lost(time.monotonic())

    def problem(self) -> str:
        """Return why an activator was not read lately."""
        failed = [page.problem for page in self._pages.values() if page.problem]
        return self._problem or next(iter(failed), f"no answer within {PATIENCE:g} s")

    def quiet(self, key: Key) -> bool:
        """Return whether a revision has no request by reads of the last second."""
        return self._queues.read_since(time.monotonic() - READ_SECONDS) and not self.count(key)

    def count(self, key: Key) -> float:
        """Return the requests for a revision at the activators."""
        return self._queues.counts.get(key, 0.0)

    def waited(self, key: Key) -> float:
        """Return the seconds for which there were requests for a revision at every read."""
        return self._queues.waited(key)

    def read_often(self, *, often: bool) -> None:
        """Read every ``OFTEN`` seconds from now on, or only every ``SELDOM``."""
        wakes, self._often = often and not self._often, often
        if wakes:
            self._loop.wake()

    def close(self) -> None:
        """Stop thread and watch, without waiting for reads under way."""
        self._loop.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._pods is not None:
            self._pods.close()

    def read(self) -> float:
        """Read the pages that are due; return the seconds until the next round."""
        now, required = time.monotonic(), self._list()
        # One that hangs delays no round but its first.
        due = [
            (address, page)
            for address, page in self._pages.items()
            if now >= page.due and (page.reading is None or page.reading.done())
        ]
        for address, page in due:
            page.reading = self._pool.submit(self._read, address, page)
        wait([page.reading for _, page in due if page.reading is not None], OFTEN)
        counts: dict[Key, float] = {}
        for page in self._pages.values():
            for key, count in page.counts.items():
                counts[key] = counts.get(key, 0.0) + count
        none_until = min(self._queues.known_until, now + PATIENCE)
        known_until = min((page.known_until for page in required), default=none_until)
        times = [page.read_at for page in required]
        read_at = min((when for when in times if when is not None), default=None)
        complete = read_at if None not in times else None
        self._queues = self._queues.after(time.monotonic(), known_until, complete, counts)
        return OFTEN if self._often else SELDOM

    def _list(self) -> list[_Page]:
        """Take the pods that there are now; return the pages of those that get requests."""
        assert self._pods is not None  # noqa: S101 - ``watch`` starts the thread
        try:
            pods = dict(self._pods.items().values())
        except PlatformError as error:
            # While the API server is away, those that are known count.
            self._problem = str(error)
            return list(self._pages.values())
        until = time.monotonic() + SELDOM + PATIENCE
        self._pages = {address: self._pages.get(address) or _Page(until) for address in pods}
        self._problem = "" if pods else f"no activator runs in {CONFIG_NAMESPACE}"
        return [self._pages[address] for address, ready in pods.items() if ready]

    def _read(self, address: str, page: _Page) -> None:
        began = time.monotonic()
        try:
            text = fetched(address, READ_SECONDS, LARGEST)
        except FAILURES as error:
            page.problem = f"{address}: {brief(error)}"
            page.known_until = min(page.known_until, began + PATIENCE)
            return
        page.problem = ""
        page.counts = inside(text)
        page.read_at = began
        page.due = began + len(text) / BYTES_PER_SECOND
        page.known_until = max(began + SELDOM, page.due) + PATIENCE


def activator_of(pod: Document) -> tuple[str, bool] | None:
    """Return the address of an activator's page, and whether it gets requests; None: it is none."""
    status, metadata = pod.get("status") or {}, pod["metadata"]
    ip = status.get("podIP")
    if not ip or deployment_of(metadata) != "activator":
        return None
    ready = any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in status.get("conditions") or ()
    )
    # One that ends may still hold requests, and one that begins does not listen yet.
    return address_of(ip, PORT), ready and "deletionTimestamp" not in metadata
