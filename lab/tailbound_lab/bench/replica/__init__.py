"""Questions about one replica: its throughput, and changes of it.

- ``compare``: every system on every workload.
- ``interleaved``: how reliable a ratio of two systems is.
- ``soak``: dying workers.
- ``promise``: the exported capacity, simulated.
"""
