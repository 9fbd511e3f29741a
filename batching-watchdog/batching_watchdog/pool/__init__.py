"""The pool of workers on the watchdog's side: starts, connects, feeds and replaces them.

- ``supervisor``     the workers: start, ready, recycle, stop
- ``gunicorn``       the process that starts them: its socket, its command, what its end means
- ``profile``        measures example() on a worker before it serves
- ``connection``     the kept connection to one worker: batch out, replies in
- ``overdue``        finds the workers that take too long, and the limit that ends each
- ``child``          starts a process, relays its output, restarts it with backoff

Makes no decisions about requests. The other end of a connection is ``worker.serve``.
"""
