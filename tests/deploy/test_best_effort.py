"""The sample job against a server that refuses some of its requests."""

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from support.exposed import ROOT


class Function(BaseHTTPRequestHandler):
    """Refuses each body once, and one for good."""

    seen: set[bytes]

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        again = body not in self.seen
        self.seen.add(body)
        status = 400 if body == b"bad" else 429 if again else 200
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.upper())

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    Function.seen = set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Function) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_job_writes_an_answer_for_each_file_and_names_those_refused_for_good(tmp_path, url):
    inputs, answers = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for number in range(20):
        (inputs / f"{number}.txt").write_text(f"text {number}")
    (inputs / "wrong.txt").write_text("bad")
    command = [sys.executable, ROOT / "deploy/best-effort/score.py", url, inputs, answers]
    job = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert job.returncode == 1
    assert "wrong.txt: 400" in job.stderr
    assert {path.name: path.read_text() for path in answers.iterdir()} == {
        f"{number}.txt.answer": f"TEXT {number}" for number in range(20)
    }
