"""The scaling law: from an observation to a decision. [P]

A replica has a late share at each load (``curve``), and the rate one start-up ahead has odds
(``scenarios``, ``periodicity``). So every count of replicas has a predicted late share. A replica is asked for,
or kept, if it saves more late requests than a replica is worth now; what it is worth follows from what is
left of the error budget (``budget``). One price for all moments: that is the cheapest way to have just as
many requests late as the objective allows.

- ``recommend``   every replica that is worth it: policy ``slo``
- ``curve``       late share of one replica at a load
- ``scenarios``   what followed moments like this one
- ``periodicity``      whether the rates repeat, hourly, daily or weekly
- ``budget``      what may be late now, and how well it was predicted
- ``memory``      what is kept of a function between two decisions
- ``policies``    ``POLICIES``: ``slo`` and ``proportional``, and latency alone where there is no capacity
- ``confidence``  how much a share of few requests can be trusted
- ``allocate``    a budget of replicas that functions share
- ``decide``      from recommendation to decision: bounds, rate limits, refusals, reasons
- ``inputs``      the numbers of a decision, by name
- ``restart``     what a new autoscaler learns from the history of the one before it

Reads no clock, acts on nothing. ``controller`` calls ``recommended``, ``allocate`` and ``decided``.
"""
