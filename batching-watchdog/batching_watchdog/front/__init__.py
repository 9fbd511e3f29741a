"""The front end: HTTP towards clients.

- ``protocol``  bytes to exchanges and back: limits, timeouts, keep-alive, pipelining
- ``exchange``  one request and its answer
- ``head`` [P]  refuses heads that RFC 9112 forbids and the parser accepts
- ``loop_lag``  measures event-loop lag
- ``weight``    the function's own weight(event)
- ``tracing``   which trace a request belongs to, and its spans
- ``ended`` [P]   the end of a request, for log and spans
- ``streams``   one answer that is sent in pieces
- ``routes``    function path, health, readiness; errors to statuses

Knows no worker. Next step: ``shell``, which passes a request to the engine.
"""
