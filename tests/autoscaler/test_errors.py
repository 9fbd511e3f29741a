"""How foreign exceptions are told."""

import requests

from slo_autoscaler.errors import brief
from tailbound_lab.local.ports import free_ports


def test_a_refused_connection_is_one_short_line():
    url = f"http://127.0.0.1:{free_ports(1)[0]}/{'x' * 500}"
    try:
        requests.get(url, timeout=1)
    except requests.RequestException as error:
        line = brief(error)
    assert line.startswith("ConnectionError: ")
    assert "Connection refused" in line
    assert len(line) < 250
