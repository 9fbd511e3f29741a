"""What Prometheus and the provider say about each function, once a second.

Owns the queries for the table and the plots, and keeps them few: one list for each namespace, two queries for
all functions together. A question without an answer leaves a gap (None) and is counted; it never stops a run.
The next step is :mod:`tailbound_lab.load.records`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import aiohttp

from tailbound_lab.live import queries
from tailbound_lab.load.records import Ledger, Sample

_T = TypeVar("_T")

_INTERVAL = 1.0
_BATCH = (
    "sum by (function_name) (rate(watchdog_batch_size_sum[5s]))"
    " / sum by (function_name) (rate(watchdog_batch_size_count[5s]))"
)
_QUEUE = "sum by (function_name) (watchdog_queue_length)"


class Watch:
    """Samples the functions of some ledgers (by full name) until cancelled."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        gateway: str,
        metrics: str,
        ledgers: Mapping[str, Ledger],
    ) -> None:
        """Take a client, the gateway's and Prometheus' addresses, and where the samples go."""
        self._session = session
        self._gateway = gateway
        self._metrics = metrics
        self._ledgers = ledgers
        self._namespaces = sorted({name.rpartition(".")[2] for name in ledgers})
        self.gaps: Counter[str] = Counter()

    async def run(self, elapsed: Callable[[], float]) -> None:
        """Sample each second; ``elapsed`` says how many seconds the run has gone on."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            await self.sample(elapsed())
            await asyncio.sleep(max(0.0, begun + _INTERVAL - loop.time()))

    async def sample(self, seconds: float) -> None:
        """Take one sample of every function."""
        batches, queues, counts = await asyncio.gather(
            self._values("batch size", queries.by_function(self._session, self._metrics, _BATCH)),
            self._values("queue length", queries.by_function(self._session, self._metrics, _QUEUE)),
            self._values("replicas", self._counts()),
        )
        for name, ledger in self._ledgers.items():
            desired, ready = counts.get(name, (None, None))
            ledger.samples.append(Sample(seconds, desired, ready, batches.get(name), queues.get(name)))

    async def _counts(self) -> dict[str, tuple[float, float]]:
        url = f"{self._gateway}/system/functions"
        counts: dict[str, tuple[float, float]] = {}
        try:
            for namespace in self._namespaces:
                for item in await queries.get_json(self._session, url, {"namespace": namespace}):
                    counts[f"{item['name']}.{namespace}"] = (
                        # Go's encoder leaves zeros out, so absence is zero (not a gap).
                        float(item.get("replicas", 0)),
                        float(item.get("availableReplicas", 0)),
                    )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise queries.NoAnswerError(f"{url}: not a list of functions: {error!r}") from error
        return counts

    async def _values(self, what: str, question: Awaitable[dict[str, _T]]) -> dict[str, _T]:
        try:
            return await question
        except queries.NoAnswerError:
            self.gaps[what] += 1
            return {}
