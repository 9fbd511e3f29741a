"""Serves the function as a Flask application: ``gunicorn 'batching_watchdog.worker.wsgi:create_app()'``.

For servers that speak only WSGI, and to debug a handler (``serve --debug``): one request at a time, without
batches, deadlines or metrics. It uses the same ``handler`` as ``serve``, so a request gets the same answer.
"""

import os
from collections.abc import Callable, Sequence

from flask import Flask, Response, request

from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.function import wire
from batching_watchdog.function.event import Event
from batching_watchdog.function.messages import Reply
from batching_watchdog.worker.devices import device, threads
from batching_watchdog.worker.handler import Handler
from batching_watchdog.worker.streams import pieces

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def create_app(
    function_path: str | None = None, whole: Callable[[bytes, bytes, Sequence[Reply]], Reply] | None = None
) -> Flask:
    """Return the application that serves the handler in ``function_path``. Raises ``HandlerNotLoaded``.

    ``whole``: makes one answer of a request's head, its body and the pieces of its stream; without it a
    function that streams is not served.
    """
    app = Flask("function")
    folder = function_path or os.environ.get("function_path") or "function"
    handler = Handler(folder, threads=threads(), device=device())
    if handler.stream is not None and whole is None:
        raise HandlerNotLoaded("the function streams, and WSGI serves whole answers: use batching-watchdog")

    def call(path: str) -> Response:
        target = request.full_path.rstrip("?").encode("latin-1", "replace")
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]
        head = wire.request_header_block(request.method.encode(), target, headers)
        body = request.get_data()
        event = Event(head, body)
        if handler.stream is None or whole is None:
            reply = handler.serve_one(event)
        else:
            reply = whole(head, body, pieces(handler, event))
        fields = wire.parse_header_block(b"- -\r\n" + reply.header_block)[2]
        return Response(reply.body, status=reply.status, headers=fields)

    app.add_url_rule("/", "call", call, methods=METHODS, defaults={"path": ""})
    app.add_url_rule("/<path:path>", "call", call, methods=METHODS)
    return app
