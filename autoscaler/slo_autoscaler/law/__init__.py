"""The scaling law: from an observation to a decision. [P]

A replica has a late share at each load, and the unspent error budget allows a share to be late now
(``base``). The rate one start-up ahead has odds (``foresight``). So every count of replicas has a predicted
late share. The law requests or keeps a replica if it saves more late requests than its price. A boost
bridges jumps, so that fewer stand by for them.

A decision reads top to bottom in ``decide``: six stages, each a module that returns a value, and its own part
of the memory.

- ``platform``     what stands there -> ``Standing``
- ``replica``      what one replica carries -> ``Carries``
- ``traffic``      what came, and what may come -> ``Outlook``
- ``need``         how many, and why -> ``Need`` or ``Hold``, by a policy; ``latency``: unpredicted
- ``limits``       what user, schedule, platform and fleet allow -> ``Allowed`` or ``Hold``
- ``step``         what happens now -> ``Change`` or ``Hold``

What the stages use:

- ``situation``    what a decision is made on; ``memory``: what is kept until the next, a part for each stage
- ``base``         late share of a replica, share that may be late now, replicas needed lately
- ``foresight``    the rates to come, and the replicas that stand by for them
- ``further``      replicas that metrics of ``also`` need
- ``allocate``     split of a budget of replicas that functions share, between ``need`` and ``limits``
- ``zero``         when a function needs no replica, and when one again
- ``boost``        CPU above nominal while replicas start
- ``schedule``     limits at planned times
- ``inputs``       the numbers of a decision, for log, page and gauges
- ``shadow``       a function's replicas if decisions were applied that are not
- ``restart``      memory that a new autoscaler restores from Prometheus

Reads no clock, acts on nothing. ``loop`` calls ``assess``, ``allocate`` and ``concluded``.
"""
