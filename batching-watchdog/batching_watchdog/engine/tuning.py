"""The constants of the engine, each with its unit and its reason. [P]

``window`` and the limits of retries were chosen on draws from seed 50000 on and on simulated
faults, so those draws are no held-out set for them; ``docs/benchmarks.md`` has other seeds. Numbers of one
module's bookkeeping stand in that module.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Tuning:
    """Constants of service times, batches, retries and capacity. Durations are seconds."""

    # l(b): ``latency``
    window: int = 24
    """Runs kept for each power of two: few enough to follow a model that changes slowly."""
    quantile: float = 0.8
    """Of run times in the deadline test. A higher one cuts smaller batches, so all lose throughput."""
    tries: int = 4
    """Runs after which the time of a size is known; twice the best size is tried this often."""
    again: int = 64
    """Batches after which twice the best size is tried again, in proportion to its runs."""
    recent: int = 8
    """Runs in a row that all differ by ``drift`` before the model counts as slower or faster."""
    drift: float = 1.15
    """Factor that is no noise: the window follows smaller changes by itself."""
    tie: float = 0.03
    """Throughputs within this share are equal; the smaller size adds less latency."""
    refit_every: int = 8
    """Runs per refit once there are many: a refit costs more than a run teaches."""

    # Cost classes: ``cost``
    apart: float = 1.35
    """Factor over the shares of their classes at which mixed batches lose a class to a lane of its own."""
    max_classes: int = 64
    """Classes and batch keys that are kept: clients choose them."""
    max_lanes: int = 8
    """Lanes of one batch key: each needs its own batch within the SLO."""

    # Batches: ``policy``
    reserve: float = 0.025
    """Share of the smallest SLO latency that is left for the way to the client under overload."""
    overload: float = 0.05
    """Share of requests that go late from which only throughput counts."""
    overload_budgets: float = 4.0
    """Latency budgets over which that share is measured."""
    overload_least: float = 2.0
    """Requests above that share that must have gone late: one or two show nothing."""
    patience: float = 0.5
    """Share of its timeout after which late work may go before requests on time, if these stay so."""
    admit: float = 1.5
    """Multiple of what can be served before a deadline from which a request is predicted to be late."""

    # Streams: ``streams``
    stream_reserve: float = 0.1
    """Share of the latency budget that a join leaves before each due time, at most an interval: a larger one
    refuses joins that would be on time."""
    stream_tries: int = 2
    """Times that a stream is started whose worker dies, or has too little memory, before its first piece."""

    # Retries: ``engine``
    missing: float = 0.25
    """Share of the workers that may be dead while a batch that may kill another is tried."""
    lately: float = 600.0
    """Time for which it is remembered that a part of a batch killed its worker."""
    sick_after: int = 3
    """Batches in a row that fail whole before their worker is checked."""
    probe_after: int = 64
    """Full batches without a memory error after which a ceiling is doubled; each failure doubles them."""

    # The next batch of a busy worker: ``prefetch``
    lead: float = 0.003
    """Time from a reply to the next batch while the front end reads other requests (median 1.9 ms)."""
    lead_share: float = 0.25
    """Of the running batch: the longest lead."""
    device_bound: float = 0.5
    """Share of the cores that workers may compute on: beyond it the front end has none of its own."""

    # Capacity: ``capacity``
    margin: float = 1.03
    """Factor by which batches are taken to be longer than their mean."""
    saturation: float = 0.95
    """Of the throughput: above it backlogs grow for longer than a simulated run."""
    arrivals: int = 32768
    """Most arrivals of a run."""
    late: int = 40
    """Late requests of a run at the objective: with 160 it takes five times as long, for a few percent."""
    periods: int = 5
    """Times that the workers fill their SLO in a run, at least: a backlog needs time to grow."""
    precision: float = 1.02
    """Ratio between a rate that met the objective and one that did not."""
    busiest: float = 0.85
    """Share of the cores that front end and workers can use with 99% on time."""
    batch_cost: float = 4.0
    """The front end's CPU time for a batch, in multiples of a request's (measured 4.2 to 4.4)."""


TUNING: Final = Tuning()
