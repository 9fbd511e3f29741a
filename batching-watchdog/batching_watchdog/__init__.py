"""The batching watchdog: the process in front of the model inside a function container.

The rooms, in the order in which a request meets them ([P] = pure: no I/O, no clock, no log, no randomness).
Each package has a map of its modules:

- ``__main__``    --help, exit statuses
- ``app``         builds all of the below, starts, runs and drains it
- ``config`` [P]  environment -> frozen ``Config``: one line per variable
- ``front``       HTTP towards clients
- ``shell``       connects requests, clock and workers: executes the engine's effects
- ``engine`` [P]  every rule about a request: the queue, the policy, service times, capacity
- ``pool``        the watchdog's side of the workers, under gunicorn
- ``worker``      the model processes: serve frames with the function's handler
- ``function``    the user's function, and what passes between it and the watchdog
- ``observe``     metrics, log and spans
- ``process``     the machine's limits, and the life of child processes
- ``errors`` [P]  one tree; each error knows its HTTP status and reason
- ``trial``       `batching-watchdog try` and `serve`, on an author's machine
- ``testing``     a function in its author's tests
"""

from batching_watchdog.errors import BadRequest
from batching_watchdog.function.event import Context, Event
from batching_watchdog.function.messages import Response, ServerSentEvent

__all__ = ["BadRequest", "Context", "Event", "Response", "ServerSentEvent"]
__version__ = "0.4.0"
