"""The law of every function: the load that one replica carries, and how much may be late. [P]

- ``curve``        late share of one replica at a load, and the replicas for a rate
- ``budget``       share of requests that may be late now
- ``calibration``  the capacity that the measured lateness shows, as a factor on the exported one
- ``needs``        replicas that were needed lately

Knows nothing of ``foresight``.
"""
