"""Measurements: one module for each question, one folder for each kind of question.

- ``replica``: one replica: ``single``, ``compare``, ``interleaved``, ``drift``, ``soak``, ``large``.
- ``fleet``: scaling: ``scaling`` and ``held_out`` (simulated), ``live`` and ``validate``, ``reconcile``.
- ``rig``: the systems that ``replica`` measures, and how; ``workloads`` and ``servers``: what they run.
- ``page``: how results are shown; ``__main__``: the commands.
"""
