"""Questions about scaling: what it costs, how well it meets the objective.

- ``scaling``: every scaler on every trace, simulated; ``held_out``: ours on what it was not set on;
  ``adversary``: a search for what it is worst on; ``plays``: what these have played.
- ``faro``: a cluster that is too small, split among functions; beside published results.
- ``live``: one trace for real; ``validate``: the same in the simulator.
- ``reconcile``: the CPU of one reconcile of many functions.
"""
