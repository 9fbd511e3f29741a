"""The pool of workers on the watchdog's side: starts, connects, feeds and replaces them.

- ``supervisor``     the workers: start, ready, recycle, stop
- ``vetting``        tries workers on example(), before they serve and when they are suspected
- ``watch``          ends the workers that take too long
- ``failures``       logs what fails: requests, batches, workers that die
- ``gunicorn``       the process that starts the workers: its socket, its command, what its end means
- ``profile``        measures example() on a worker before it serves
- ``connection``     the kept connection to one worker: batch out, replies in
- ``overdue``        finds the workers that take too long, and the limit that ends each
- ``crew``           the workers that have loaded: which serve, how old they are, which leave
- ``life``           the states of the pool: starting, serving, draining, ended
- ``readiness``      why no worker can serve
- ``child``          starts a process, relays its output, restarts it with backoff

Makes no decisions about requests. The other end of a connection is ``worker.serve``.
"""
