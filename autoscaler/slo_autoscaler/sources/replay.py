"""Reads observations from a recording, for tests and simulation.

One line of JSON per reconcile: ``{"name.namespace": {"rate": 12.5, "p95": 0.08, ...}, ...}`` with the fields
of ``Observation``; a missing or null field is no data.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Final

from slo_autoscaler.errors import SourceError
from slo_autoscaler.law.restart import Past
from slo_autoscaler.signals import Observation
from slo_autoscaler.sources import Earlier

_FIELDS: Final = {field.name for field in fields(Observation)}


class ReplaySource:
    """Answers each call with the next line; after the last line ``observe`` raises."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines: Iterator[tuple[int, str]] = enumerate(lines, 1)

    def observe(self) -> dict[str, Observation]:
        """Return the next recorded reconcile; raise ``SourceError`` at the end or for an invalid line."""
        number, line = next(self._lines, (0, ""))
        if not number:
            raise SourceError("the recording has ended")
        try:
            recorded = json.loads(line)
            return {name: _observation(values) for name, values in recorded.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise SourceError(f"line {number} of the recording: {error}") from error

    def history(self, span: float) -> dict[str, Past]:
        """Return nothing: a recording begins with its first line."""
        return {}

    def earlier(self, ages: Sequence[float], span: float) -> dict[str, dict[float, Earlier]]:
        """Likewise."""
        return {}


def _observation(values: dict[str, float | None]) -> Observation:
    unknown = set(values) - _FIELDS
    if unknown:
        raise ValueError(f"unknown signals: {', '.join(sorted(unknown))}")
    return Observation(**values)
