"""A server that answers batches of JSON lines, and misbehaves when a body says so.

Run as ``python upstream.py PORT [GATE]``: with a gate, GET /ready is 200 only while that file exists.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PORT, GATE = int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None


def reply(request: dict, size: int) -> dict:
    headers = {
        "X-Size": size,
        "X-Asked": f"{request['method']} {request['path']}?{request['query']}",
        "X-Ask": request["headers"].get("x-ask", ""),
        "X-Traceparent": request["headers"].get("traceparent", ""),
    }
    body = {key: request[key] for key in ("body", "body_base64") if key in request}
    return {"status": 201, "headers": headers | {"Set-Cookie": ["a=1", "b=2"]}, **body}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200 if GATE is None or GATE.exists() else 503, b"")

    def do_POST(self) -> None:
        lines = self.rfile.read(int(self.headers["Content-Length"])).splitlines()
        requests = [json.loads(line) for line in lines]
        said = {request.get("body") for request in requests}
        time.sleep(0.02)
        if "kill" in said:
            os._exit(1)
        if "hang" in said:
            time.sleep(60)
        if "error" in said:
            self.answer(500, b"out of memory")
        else:
            replies = [json.dumps(reply(request, len(requests))) for request in requests]
            self.answer(200, "\n".join(replies).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
sys.stdout.write("it listens\n")
sys.stdout.flush()
server.serve_forever()
