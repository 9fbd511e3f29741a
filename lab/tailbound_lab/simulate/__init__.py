"""What if: the same ``decide`` on a recorded or generated trace, beside other scalers' laws.

Its modules, in the order of a run. Those marked [P] are pure: no I/O, no clock, no randomness.

- ``traces``: when requests arrive: files, generators with fixed seeds; ``history``: the same from a live
  Prometheus.
- ``function`` [P]: what is simulated: l(b), workers, SLO, start-up time, routing.
- ``replica`` [P]: one replica: its queue, its batches, the late lane.
- ``scrape``: what Prometheus would have seen of the replicas, as an ``Observation``.
- ``scalers`` [P]: the seam, and ours behind it; ``baselines`` [P]: other scalers' published laws;
  ``oracle``: who knows the trace beforehand.
- ``world``: ``run(trace, function, scaler, ...) -> Outcome``, second by second.
- ``report``: outcomes as table, JSON and plots; ``command``: ``tailbound-simulate``.

Nothing here is imported by the controller. It needs the extra ``tailbound-lab``: numpy, rich, and
matplotlib for the plots; so this file imports nothing.
"""
