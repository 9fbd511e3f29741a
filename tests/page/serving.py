"""The page over a real socket, on what it is told."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from page.told import Told
from slo_autoscaler.config import Config
from slo_autoscaler.web.page import Page

CONFIG = """
platform: {{gateway_url: "http://127.0.0.1:1"}}
prometheus: {{url: "{prometheus}", timeout: 10s}}
web: {{page_port: 0, page_allowed_hosts: [status.example.org]}}
functions: {{resize.openfaas-fn: {{signals: gateway, slo_latency: 500ms}}}}
"""

NOBODY = "http://127.0.0.1:1"
"""Where nothing listens."""


@contextmanager
def a_page(told: Told, prometheus: str = NOBODY) -> Iterator[str]:
    """Serve a page; give its URL."""
    config = Config.parse(CONFIG.format(prometheus=prometheus), "test")
    page = Page(config, told, lambda: told.alive)
    page.start()
    try:
        yield page.url
    finally:
        page.stop()


def get(url: str, **headers: str) -> tuple[int, Any, str]:
    """Return status, headers and body of an answer, whatever its status."""
    return send(urllib.request.Request(url, headers=headers))


def send(request: urllib.request.Request) -> tuple[int, Any, str]:
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def get_json(url: str) -> tuple[int, Any]:
    status, headers, body = get(url)
    assert headers["Content-Type"] == "application/json", body
    return status, json.loads(body)


def post(url: str, document: object, content_type: str = "application/json") -> tuple[int, Any]:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    request = urllib.request.Request(url, body, {"Content-Type": content_type})
    status, _, text = send(request)
    return status, json.loads(text)


def cells(html: str) -> list[str]:
    """Return the names of the rows, in their order."""
    return re.findall(r'href="/functions/([^"?]+)"', html)
