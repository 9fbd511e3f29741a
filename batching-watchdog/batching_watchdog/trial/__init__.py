"""``batching-watchdog try FOLDER``: runs a handler as production does, and reports its cost and its rate.

- ``command``      arguments, environment, output, exit statuses
- ``measure``      runs the watchdog's own parts, with worker processes, and sends example() over HTTP
- ``streams``      runs streams on a handler with start and step
- ``report`` [P]   measurements -> the report and the next step
"""
