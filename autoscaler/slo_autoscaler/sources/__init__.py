"""Where observations come from.

A source has one method; see ``prometheus`` for the real one and ``replay`` for recordings.
"""

from typing import Protocol

from slo_autoscaler.model import Observation


class Source(Protocol):
    """What the controller needs from a source."""

    def observe(self) -> dict[str, Observation]:
        """Return {function_name: Observation} as of now, or raise ``SourceError``.

        A function that is missing has no data. All signals or none: a reconcile on half of them would
        take a low rate for a lull.
        """
        ...
