"""The batching watchdog: the process in front of the model inside a function container.

In the order in which a request meets them ([P] = pure: no I/O, no clock, no log, no randomness):

- ``__main__``        --help, exit statuses
- ``app``             builds all of the below, starts, runs and drains it
- ``trial``           `batching-watchdog try`: measures a handler with these parts, and reports
- ``config`` [P]      environment -> frozen ``Config``: one line per variable
- ``front``           HTTP towards clients: ``protocol``, ``head`` [P], ``loop_lag``, ``routes``
- ``shell``           connects requests, clock and workers: executes the engine's effects
- ``engine`` [P]      every rule about a request: the queue, policies, service times, capacity
- ``pool``            the watchdog's side of the workers, under gunicorn
- ``function``        imports the function's own files; the event and the context that they receive
- ``stacks``          the stacks that processes leave when they hang or crash
- ``wire`` [P]        a batch <-> one frame
- ``worker``          the model processes: serve frames with the function's handler
- ``messages`` [P]    ``Request``, ``Reply``, ``Batch``
- ``errors`` [P]      one tree; each error knows its HTTP status and reason
- ``metrics``         every metric name, label and bucket
- ``trace_context`` [P]  W3C ``traceparent``: the trace of a request
- ``spans`` [P]       the spans of a request and of a batch, and the seam to whatever takes them
- ``otel``            sends spans by OpenTelemetry's SDK, where the extra ``otel`` is installed
- ``logs``            the format of the log, which requests have a line
- ``output``          writes stdout and stderr without waiting for the process that reads them
- ``quota`` [P]       workers, threads and speed that a CPU quota is worth
- ``machine``         what this container may use: CPUs, CUDA devices
- ``launch``          ties a child's life to its parent's
- ``speedups`` [P]    plain requests and frames, in C where the build has it
"""

from batching_watchdog.errors import BadRequest
from batching_watchdog.function import Context, Event
from batching_watchdog.messages import Response, ServerSentEvent

__all__ = ["BadRequest", "Context", "Event", "Response", "ServerSentEvent"]
__version__ = "0.4.0"
