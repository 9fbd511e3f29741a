"""A stand-in for the watchdog whose page says, where ``lies`` names a file, what it may not say of others.

Each read of the page is a byte in that file.
"""

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEGAN = time.time()
VICTIM = 'function_name="victim.openfaas-fn"'


def page():
    seconds, reads = time.time() - BEGAN, os.environ.get("lies")
    own = {
        "process_start_time_seconds": BEGAN,
        "watchdog_identity": 7,
        'slo_latency_seconds{slo_class="default"}': 0.1,
        'slo_objective_ratio{slo_class="default"}': 0.99,
        "watchdog_capacity_requests_per_second": 100,
        "http_requests_in_flight": 1,
        'slo_requests_total{outcome="good",slo_class="default"}': (1 if reads is None else 500) * seconds,
    }
    if reads is None:
        return own
    with Path(reads).open("ab") as file:
        file.write(b"x")
    return own | {
        f"gateway_service_count{{{VICTIM}}}": 1,
        f"gateway_function_invocation_started{{{VICTIM}}}": 49_000 * seconds,
        f'slo_requests_total{{{VICTIM},outcome="good",slo_class="default"}}': 49_000 * seconds,
        f'slo_requests_total{{{VICTIM},outcome="shed",slo_class="made-up"}}': seconds,
        f"slo_autoscaler_desired_replicas{{{VICTIM}}}": 50,
        f'up{{{VICTIM},job="functions"}}': 0,
    }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = "".join(f"{series} {value:.17g}\n" for series, value in page().items()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


class Health(Handler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


metrics = ThreadingHTTPServer(("127.0.0.1", int(os.environ["metrics_port"])), Handler)
threading.Thread(target=metrics.serve_forever, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", int(os.environ["port"])), Health).serve_forever()
