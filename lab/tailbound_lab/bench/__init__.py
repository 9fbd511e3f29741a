"""Measures the watchdog beside its peers, and the autoscaler beside other scalers.

``peers``, ``streams`` and ``soak`` are about one replica, ``scaling``, ``faro``,
``node`` and ``reconcile`` about many. Each has its options, its measurement, and the table of its rows.

- ``rig``: what they share. ``servers``: a small program for each peer. ``workloads``: the models.

A new question is a module and a line in ``__main__.COMMANDS``. A new peer is a program in ``servers`` and an
entry in ``rig/systems.py``.
"""
