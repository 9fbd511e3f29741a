"""The scaling law: from an observation to a decision. [P]

A replica has a late share at each load (``curve``), and the rate one start-up ahead has odds
(``history``, ``scenarios``). So every count of replicas has a predicted late share. The law requests or
keeps a replica if it saves more late requests than its price. The price follows from the unspent error
budget (``budget``) and is the same for all moments: the cheapest way to have as many requests late as the
objective allows.

- ``recommend``    policy ``slo``: every replica that saves more than its price
- ``curve``        late share of one replica at a load
- ``scenarios``    odds of the rates to come, from the rates that followed similar ones
- ``history``      the rates of two hours, what followed, and periods: minutes to hours, a day, a week
- ``calibration``  the capacity that the measured lateness shows, as a factor on the exported one
- ``budget``       share of requests that may be late now
- ``memory``       state of a function between two decisions
- ``policies``     ``POLICIES``: ``slo`` and ``proportional``; latency alone where there is no capacity
- ``allocate``     split of a budget of replicas that functions share
- ``situation``    what a decision is made on; ``bounds``: the counts allowed, and why
- ``schedule``     bounds at planned times
- ``window``       the window of a slow function's rates
- ``boost``        CPU above nominal while replicas start
- ``further``      replicas that metrics of ``also`` need
- ``decide``       from recommendation to decision: bounds, rate limits, refusals, reasons
- ``inputs``       the numbers of a decision, for log, page and gauges
- ``restart``      state that a new autoscaler restores from Prometheus

Reads no clock, acts on nothing. ``controller`` calls ``recommended``, ``allocate`` and ``decided``.
"""
