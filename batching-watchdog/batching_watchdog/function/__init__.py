"""The user's function, and what passes between it and the watchdog.

- ``folder``        the handler in a folder on a developer's machine
- ``stack`` [P]     stack files: faas-cli's YAML
- ``event``         the function's own files; the event and the context that it receives
- ``messages`` [P]  requests, replies, batches and failures
- ``wire`` [P]      batches as frames, for the connection between watchdog and worker
"""
