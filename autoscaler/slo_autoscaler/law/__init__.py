"""The scaling law: from an observation to a decision. [P]

A replica has a late share at each load, and the unspent error budget allows a share to be late now
(``base``). The rate one start-up ahead has odds (``foresight``). So every count of replicas has a predicted
late share. The law requests or keeps a replica if it saves more late requests than its price. A boost
bridges jumps, so that fewer stand by for them.

- ``recommend``    policy ``slo``: what an observation teaches, and the count for it
- ``base``         late share of a replica, share that may be late now, replicas needed lately
- ``foresight``    the rates to come, and the replicas that stand by for them
- ``memory``       state of a function between two decisions
- ``policies``     ``POLICIES``: ``slo`` and ``proportional``; latency alone where there is no capacity
- ``allocate``     split of a budget of replicas that functions share
- ``situation``    what a decision is made on; ``bounds``: the counts allowed, and why
- ``schedule``     bounds at planned times
- ``boost``        CPU above nominal while replicas start
- ``further``      replicas that metrics of ``also`` need
- ``decide``       from recommendation to decision: bounds, rate limits, refusals, reasons
- ``zero``         when a function without replicas gets some, where no request wakes it by itself
- ``inputs``       the numbers of a decision, for log, page and gauges
- ``restart``      state that a new autoscaler restores from Prometheus

Reads no clock, acts on nothing. ``controller`` calls ``recommended``, ``allocate`` and ``decided``.
"""
