"""What if: the same ``decide`` on a recorded or generated trace, beside other scalers' laws.

Its modules, in the order of a run. Those marked [P] are pure: no I/O, no clock, no randomness.

- ``traces``: when requests arrive: files, generators with fixed seeds; ``history``: the same from a live
  Prometheus.
- ``function`` [P]: what is simulated: l(b), workers, SLO, start-up time, routing; and what scalers see of it.
- ``virtual`` [P]: the watchdog's engine, its workers and a clock in virtual time, of batches and of streams.
- ``replica`` [P]: one replica and what became of its requests; ``streams`` [P]: one that streams.
- ``scrape``: what Prometheus would have seen of the replicas, as an ``Observation``.
- ``baselines`` [P]: other scalers' published laws, and a scaler that knows the trace.
- ``scalers`` [P]: all of them and ours, by name.
- ``world``: ``run(trace, function, scaler, ...) -> Outcome``, second by second.
- ``cluster``: jobs that share the CPUs of one cluster, in Faro's setting; ``split``: laws that split it.
- ``report``: outcomes as table, JSON and plots; ``__main__``: ``tailbound-simulate``.
"""


class SimulationError(Exception):
    """An impossible trace, function or choice; the message names object, value and rule."""
