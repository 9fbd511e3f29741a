"""The workers as the watchdog sees them: started, connected, given batches, replaced.

- ``supervisor``     the gunicorn child: start, ready, restart, recycle, stop
- ``connection``     the kept connections to its workers: batch out, replies in
- ``remote``         with ``upstream_url``: the child of ``fprocess``, in place of the supervisor
- ``http_upstream``  with ``upstream_url``: one POST per batch, in place of the connections
- ``jsonlines`` [P]  a batch <-> JSON lines
- ``child``          starts a process, relays its output, backs off

Decides nothing about requests. The other end of a connection is ``worker.serve``.
"""
