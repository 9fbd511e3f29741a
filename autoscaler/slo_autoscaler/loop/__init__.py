"""The loop: observe, decide, act.

- ``controller``    the reconcile, and what happens between two of them
- ``observer``      reads the source and the platform, and answers their outages
- ``targets``       each function's state between reconciles, and its decisions by ``law``
- ``actor``         records and announces decisions, requests counts; backoff, and the leader's fence
- ``conflict`` [P]  counts that another client sets
"""
