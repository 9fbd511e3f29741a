"""Flask: a generator for each stream, run by gunicorn with N workers of B threads, one stream a thread."""

import json
from collections.abc import Iterator
from types import SimpleNamespace

from flask import Flask, Response, request

from tailbound_lab.bench.workloads.stream import handler


def create_app() -> Flask:
    """The application: every step is one of a single stream."""
    app = Flask("function")

    @app.post("/")
    def call() -> Response:
        return Response(_events(request.get_data()), mimetype="text/event-stream")

    return app


def _events(body: bytes) -> Iterator[str]:
    states, done = handler.start([SimpleNamespace(body=body)], None), False
    while not done:
        ((piece, done),) = handler.step(states, None)
        yield f"data: {json.dumps(piece)}\n\n"
