"""The front end: HTTP towards clients.

- ``protocol``  one connection: the loop's events, timeouts
- ``reader``    bytes to exchanges: the parser, limits of a head, refusing at the head
- ``admission`` whether a request may come: its length, the bytes held, the connections
- ``answers``   exchanges to bytes, in the order of the requests
- ``line``      the transport, its state, and what the client has not read
- ``state`` [P]   the life of a connection: a table of states and events
- ``connections`` all of a listener: the limits that clients share, the drain
- ``exchange``  one request and its answer
- ``head`` [P]  refuses heads that RFC 9112 forbids and the parser accepts
- ``loop_lag``  measures event-loop lag
- ``weight``    the function's own weight(event)
- ``tracing``   which trace a request belongs to, and its spans
- ``ended`` [P]   the end of a request, for log and spans
- ``streams``   one answer that is sent in pieces
- ``terms``     what a request asks for by its headers: class, times, batch key
- ``endings``   the answer, and what metrics, log and spans are told
- ``metrics_page`` the metrics port
- ``routes``    function path, health, readiness

Knows no worker. Next step: ``shell``, which passes a request to the engine.
"""
