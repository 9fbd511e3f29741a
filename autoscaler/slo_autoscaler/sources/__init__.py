"""Where observations come from.

A source has two methods; see ``prometheus`` for the real one and ``replay`` for recordings.
"""

from typing import Protocol

from slo_autoscaler.law.restart import Past
from slo_autoscaler.model import Observation


class Source(Protocol):
    """What the controller needs from a source."""

    def observe(self) -> dict[str, Observation]:
        """Return {function_name: Observation} as of now, or raise ``SourceError``.

        A function that is missing has no data. All signals or none: a reconcile on half of them would
        take a low rate for a lull. Returns within the time that the source is given, whatever happens.
        """
        ...

    def history(self, span: float) -> dict[str, Past]:
        """Return {function_name: what is known of the last ``span`` seconds}, or raise ``SourceError``.

        Asked for once, after a start: what was seen before it is known to the source alone.
        """
        ...
