"""The batching watchdog: the process in front of the model inside a function container.

The modules, in the order in which a request meets them ([P] = pure: no I/O, no clock):

- ``config`` [P]     environment -> frozen ``Config``
- ``errors`` [P]     one tree; each error knows its HTTP status and reason
- ``messages`` [P]   ``Request``, ``Reply``, ``Batch``
- ``protocol``       HTTP/1.1 on httptools: limits, timeouts, keep-alive, pipelining
- ``turns``          how far the loop lags behind what comes in
- ``server``         routes, deadlines, errors -> statuses, drain
- ``batcher``        where requests meet the clock and the workers
- ``scheduler`` [P]  the queue, its lanes, ``next_action``
- ``policy`` [P]     how large a batch is and when it leaves
- ``latency`` [P]    the learned service time l(b), best size, capacity of the workers
- ``capacity`` [P]   what the front and the cores leave of that
- ``wire`` [P]       a batch <-> one frame
- ``speedups`` [P]   plain requests and frames, in C where the build has it
- ``jsonlines`` [P]  a batch <-> JSON lines, for upstreams in other languages
- ``upstream``       the kept connections to the workers
- ``http_upstream``  in place of ``upstream``, with ``upstream_url``: one POST per batch
- ``workers``        the gunicorn child: start, ready, restart, drain
- ``http_workers``   in place of ``workers``, with ``upstream_url``: the child ``fprocess``
- ``launch``         ties a child process to the watchdog's life
- ``children``       how a child is started, relayed, waited for before it is started again
- ``worker``         runs inside gunicorn: loads the handler, serves batch frames
- ``logs``           the format of the log, the line of a request, which requests have one
- ``metrics``        every metric name, label and bucket
- ``app``            builds all of the above, starts, runs and stops it
"""

__version__ = "0.1.0"
