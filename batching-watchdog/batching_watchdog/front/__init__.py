"""The front end: HTTP towards clients.

- ``protocol``  bytes to exchanges and back: limits, timeouts, keep-alive, pipelining
- ``head`` [P]  refuses heads that RFC 9112 forbids and the parser accepts
- ``loop_lag``  measures event-loop lag
- ``weight``    the function's own weight(event)
- ``tracing``   which trace a request belongs to, and its spans
- ``ended`` [P]   the end of a request, for log and spans
- ``page`` [P]    the answer to a browser that looks for the function
- ``routes``    function path, health, readiness; errors to statuses

Knows no worker. Next step: ``shell``, which passes a request to the engine.
"""
