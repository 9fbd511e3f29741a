"""The two questions that the demo asks a Prometheus: an instant query by function, and which alerts fire.

Owns the HTTP to it and nothing of its meaning. Whatever goes wrong becomes :class:`NoAnswerError`; what a gap
means is the callers' to decide. The next steps are :mod:`tailbound_lab.live.watch` and
:mod:`tailbound_lab.live.twins`.
"""

from __future__ import annotations

import math
from typing import Any

import aiohttp


class NoAnswerError(Exception):
    """Prometheus or the provider did not answer, or not with what its API promises."""


async def by_function(session: aiohttp.ClientSession, address: str, query: str) -> dict[str, float]:
    """Return an instant query's values by their ``function_name``; values that are no number left out."""
    document = await get_json(session, f"{address}/api/v1/query", {"query": query})
    try:
        values = {
            series["metric"].get("function_name", ""): float(series["value"][1])
            for series in document["data"]["result"]
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise NoAnswerError(f"{address}: not a query result: {error!r}") from error
    return {name: value for name, value in values.items() if math.isfinite(value)}


async def firing(session: aiohttp.ClientSession, address: str, alert: str) -> frozenset[str]:
    """Return the ``function_name`` of every alert of a name that fires (``/api/v1/alerts``)."""
    document = await get_json(session, f"{address}/api/v1/alerts", {})
    try:
        return frozenset(
            item["labels"].get("function_name", "")
            for item in document["data"]["alerts"]
            if item["labels"].get("alertname") == alert and item["state"] == "firing"
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise NoAnswerError(f"{address}: not a list of alerts: {error!r}") from error


async def get_json(session: aiohttp.ClientSession, url: str, query: dict[str, str]) -> Any:
    """Return what a GET answers, decoded; raise :class:`NoAnswerError` for anything but 200 and JSON."""
    try:
        async with session.get(url, params=query) as answer:
            if answer.status != 200:
                raise NoAnswerError(f"{url}: status {answer.status}")
            return await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NoAnswerError(f"{url}: {error or type(error).__name__}") from error
