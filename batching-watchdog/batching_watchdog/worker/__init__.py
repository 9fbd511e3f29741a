"""The code that runs in the model processes: gunicorn's arbiter, one worker each, the function's handler.

- ``arbiter``  gunicorn's arbiter: slots, deaths while loading, preload
- ``serve``    ``BatchWorker``: one connection, batch frames until it closes
- ``wsgi``     instead: the handler as a Flask application under any WSGI server
- ``handler``  the function's code: loaded, called, what a result means
- ``devices``  the worker's share of CUDA devices, its maths threads

Never imports the engine, the front end or asyncio: it meets the watchdog at ``wire``.
"""
