"""How foreign exceptions are told."""

import requests

from slo_autoscaler.errors import brief
from support.ports import free_port


def test_a_refused_connection_is_one_short_line():
    url = f"http://127.0.0.1:{free_port()}/{'x' * 500}"
    try:
        requests.get(url, timeout=1)
    except requests.RequestException as error:
        line = brief(error)
    assert line.startswith("ConnectionError: ")
    assert "Connection refused" in line
    assert len(line) < 250
