"""HTTP towards clients, and nothing else.

- ``protocol``  bytes to exchanges and back: limits, timeouts, keep-alive, pipelining
- ``head`` [P]  what RFC 9112 forbids and the parser takes
- ``loop_lag``  how far the event loop lags behind the kernel
- ``cost``      the function's own cost(event)
- ``routes``    function path, health, readiness; errors to statuses

Knows no worker. The next step is ``shell``, which gives a request to the engine.
"""
