"""Questions about one replica: how much it serves, how that changes.

- ``single``: one function at one rate; ``compare``: every system on every workload.
- ``interleaved``: how reliable a ratio of two systems is.
- ``drift``, ``soak``, ``large``: a slower model, dying workers, large bodies.
"""
