"""The workers as the watchdog sees them: started, connected, given batches, replaced.

- ``supervisor``     the gunicorn child: start, ready, recycle, stop
- ``profile``        measures example() on a worker before it serves
- ``connection``     the kept connection to one worker: batch out, replies in
- ``remote``         instead, with ``upstream_url``: one POST per batch, and the child of ``fprocess``
- ``jsonlines`` [P]  a batch <-> JSON lines
- ``child``          starts a process, relays its output, starts it again with a back-off

Decides nothing about requests. The other end of a connection is ``worker.serve``.
"""
