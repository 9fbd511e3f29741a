"""Samples replicas, Prometheus and the autoscaler's log about each function during a run.

Owns the HTTP to Prometheus: three queries each second for all functions together. A missing answer leaves a
gap (None); it never stops a run. Next step: :mod:`tailbound_lab.load.records`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp

from slo_autoscaler.show.journal import of_log
from tailbound_lab.load.records import Ledger, Sample

_INTERVAL = 1.0
_BATCH = (
    "sum by (function_name) (rate(watchdog_batch_size_sum[5s]))"
    " / sum by (function_name) (rate(watchdog_batch_size_count[5s]))"
)
_QUEUE = "sum by (function_name) (watchdog_queue_length)"
_BOOST = "slo_autoscaler_boost_factor"


class NoAnswerError(Exception):
    """Prometheus did not answer, or its answer violates its API."""


async def get_json(session: aiohttp.ClientSession, url: str, query: Mapping[str, str] | None = None) -> Any:
    """Return the decoded answer to a GET; raise :class:`NoAnswerError` for anything but 200 and JSON."""
    try:
        async with session.get(url, params=query) as answer:
            if answer.status != 200:
                raise NoAnswerError(f"{url}: status {answer.status}")
            return await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NoAnswerError(f"{url}: {error or type(error).__name__}") from error


async def by_function(session: aiohttp.ClientSession, address: str, query: str) -> dict[str, float]:
    """Return an instant query's values by ``function_name``, without NaN."""
    document = await get_json(session, f"{address}/api/v1/query", {"query": query})
    try:
        values = {
            series["metric"].get("function_name", ""): float(series["value"][1])
            for series in document["data"]["result"]
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise NoAnswerError(f"{address}: not a query result: {error!r}") from error
    return {name: value for name, value in values.items() if math.isfinite(value)}


class Watch:
    """Samples the functions of some ledgers (by full name) until cancelled."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        metrics: str,
        ledgers: Mapping[str, Ledger],
        counts: Callable[[str], tuple[int, int]],
    ) -> None:
        """Take a client, Prometheus' address, the ledgers, and who tells (desired, ready) of a full name."""
        self._session = session
        self._metrics = metrics
        self._ledgers = ledgers
        self._counts = counts

    async def run(self, elapsed: Callable[[], float]) -> None:
        """Sample each second; ``elapsed`` returns the seconds since the start of the run."""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            await self.sample(elapsed())
            await asyncio.sleep(max(0.0, begun + _INTERVAL - loop.time()))

    async def sample(self, seconds: float) -> None:
        """Take one sample of every function."""
        batches, queues, boosts = await asyncio.gather(*map(self._values, (_BATCH, _QUEUE, _BOOST)))
        for name, ledger in self._ledgers.items():
            ledger.samples.append(
                Sample(
                    seconds,
                    *self._counts(name),
                    batch=batches.get(name),
                    queue=queues.get(name),
                    boost=boosts.get(name),
                )
            )

    async def _values(self, query: str) -> dict[str, float]:
        try:
            return await by_function(self._session, self._metrics, query)
        except NoAnswerError:
            return {}


@dataclass(frozen=True, slots=True)
class Decision:
    """A change of a function's replicas: seconds since the start, counts before and after, and reason."""

    seconds: float
    function_name: str
    before: int
    after: int
    reason: str


def decisions(lines: Iterable[str], begun: datetime, duration: float) -> tuple[Decision, ...]:
    """Return the changes in an autoscaler's log within ``duration`` seconds of the beginning, in their order.

    Other lines are skipped.
    """
    logged = (
        Decision(
            seconds=(datetime.fromisoformat(item["time"]) - begun).total_seconds(),
            function_name=item["function_name"],
            before=item["from"],
            after=item["to"],
            reason=item["reason"],
        )
        for item in filter(None, map(of_log, lines))
    )
    return tuple(item for item in logged if item.before != item.after and 0 <= item.seconds <= duration)
