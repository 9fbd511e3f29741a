"""Questions about scaling: its cost, and its attainment of the objective.

- ``held_out``: ours on cases that set no constant;
- ``faro``: a cluster that is too small, split among functions; beside published results.
- ``reconcile``: the CPU of one reconcile of many functions.
"""
