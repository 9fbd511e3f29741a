"""Reads the requests of each revision from the page of an activator. [P]

Owns the two metrics (knative/serving 1.22 and later: pkg/activator/handler/metrics.go), which exist for every
class. A request counts from its arrival on; ``kn_revision_request_concurrency`` leaves the first one out.
Next step: ``activators`` reads the pages.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

from slo_autoscaler.platforms.knative.allocation import Key

METRICS: Final = (b"kn_revision_request_queued{", b"kn_revision_request_active{")
"""Requests that wait for a replica, and requests that one answers."""

_LINE: Final = re.compile(rb"^kn_revision_request_\w+\{([^}\n]{1,1000})\} (\S{1,40})$", re.MULTILINE)
_NAMESPACE: Final = re.compile(rb'(?:^|,)k8s_namespace_name="([a-z0-9-]+)"')
_REVISION: Final = re.compile(rb'(?:^|,)kn_revision_name="([a-z0-9.-]+)"')


def inside(page: bytes) -> dict[Key, float]:
    """Return {(namespace, revision): requests at the activator}, without those that have none."""
    counts: dict[Key, float] = {}
    for labels, value in (line for name in METRICS for line in _LINE.findall(_adjacent(page, name))):
        namespace, revision = _NAMESPACE.search(labels), _REVISION.search(labels)
        count = _number(value)
        if namespace is not None and revision is not None and count > 0.0:
            key = namespace[1].decode(), revision[1].decode()
            counts[key] = counts.get(key, 0.0) + count
    return counts


@dataclass(frozen=True, slots=True)
class Queues:
    """What the activators' pages have told; times are seconds on any monotonic clock."""

    known_until: float
    """Time until which every activator counts as read."""
    read_at: float | None = None
    """Time since which the oldest page is; None: some activator was never read."""
    counts: Mapping[Key, float] = field(default_factory=dict)
    at: float = 0.0
    """Time of the last reads."""
    since: Mapping[Key, float] = field(default_factory=dict)
    """Time since which a revision has had requests at every read."""

    def after(
        self, now: float, known_until: float, read_at: float | None, counts: Mapping[Key, float]
    ) -> "Queues":
        """Return the queues after one more round of reads."""
        since = {key: self.since.get(key, now) for key in counts}
        return Queues(known_until, read_at, counts, now, since)

    def lost(self, now: float) -> bool:
        """Return whether some activator was not read until ``now``: a request may wait there."""
        return now > self.known_until

    def read_since(self, begin: float) -> bool:
        """Return whether every activator was read since ``begin``."""
        return self.read_at is not None and self.read_at >= begin

    def waited(self, key: Key) -> float:
        """Return the seconds for which a revision had requests at every read."""
        return self.at - self.since.get(key, self.at)


def _adjacent(page: bytes, name: bytes) -> bytes:
    """Return the lines of a metric, which are adjacent: the rest of the page may be megabytes."""
    begin, last = page.find(name), page.rfind(name)
    return b"" if begin < 0 else page[begin:last] + page[last:].partition(b"\n")[0]


def _number(text: bytes) -> float:
    """Return a number; 0 for what is none."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if isfinite(value) else 0.0
