"""What the watchdog tells of itself.

- ``metrics``            every metric, one row each
- ``logs``               the log, and the requests that have a line
- ``spans`` [P]          spans of requests and batches
- ``trace_context`` [P]  the W3C headers of a trace
- ``otel``               spans to an OTLP/HTTP receiver
"""
