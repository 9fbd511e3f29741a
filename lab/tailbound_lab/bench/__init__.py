"""Measurements: one module per question, one folder per kind of question.

- ``replica``: one replica: ``compare``, ``interleaved``,
  ``bound``, ``promise``, ``soak``.
- ``fleet``: scaling: ``held_out`` (simulated), ``faro`` (simulated), ``reconcile``.
- ``rig``: the systems that ``replica`` measures, and its tools; ``workloads`` and ``servers``: their
programs.
- ``page``: presentation of results; ``__main__``: the commands.
"""
