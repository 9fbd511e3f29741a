"""Flask as the python3-http template has it: one application, one request at a time for each thread.

Run by waitress with its defaults (4 threads), as the template's index.py does.
"""

import sys

from flask import Flask, Response, request
from waitress import serve

from tailbound_lab.bench.workloads import model_of_environment


def create_app() -> Flask:
    """The application: every request is a batch of one."""
    app = Flask("function")
    model = model_of_environment()

    @app.post("/")
    def call() -> Response:
        return Response(model.predict([request.get_data()])[0], mimetype="application/json")

    return app


if __name__ == "__main__":
    serve(create_app(), host="127.0.0.1", port=int(sys.argv[1]))
