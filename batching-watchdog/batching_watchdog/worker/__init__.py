"""Runs the function's handler in the model processes, under gunicorn.

- ``arbiter``  gunicorn's arbiter: indexes, deaths while loading, preload
- ``serve``    ``BatchWorker``: one connection, batch frames until it closes
- ``wsgi``     the handler as a Flask application under any WSGI server, in place of ``serve``
- ``handler``  loads and calls the function's code
- ``results``  [P] results -> replies
- ``devices``  the worker's share of CUDA devices, its maths threads

Never imports the engine, the front end or asyncio: ``wire`` is the only contract with the watchdog.
"""
