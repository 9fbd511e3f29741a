"""The scaling policy: from an observation to a decision. [P]

- ``inputs``      every number that a decision is made of: unit, meaning, gauge
- ``memory``      what is kept of a function between two decisions
- ``window``      the last seconds of a value, and their maximum
- ``confidence``  how much a share of few requests can be trusted
- ``curve``       the late share of one replica at a load
- ``recurrence``  peaks at equal distances
- ``headroom``    how the error budget is spent
- ``forecast``    the rate one start-up time ahead
- ``policies``    how many replicas a policy recommends; ``POLICIES``
- ``inputs``      the numbers of a decision, by name: signals and what the law derives
- ``restart``     what a new autoscaler learns from the history of the one before it
- ``allocate``    a shared budget of replicas, by the misses that each replica saves
- ``decide``      from recommendation to decision: bounds, rate limits, stabilization, reasons

Reads no clock, acts on nothing. ``controller`` calls ``decide``.
"""
