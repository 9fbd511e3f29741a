"""Where the commands ask."""

import pytest

from slo_autoscaler.cli.client import address
from slo_autoscaler.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "host", "port", "expected"),
    [
        ("http://a:1/", "h", 2, "http://a:1"),
        (None, "h", 2, "http://h:2"),
        (None, "0.0.0.0", 2, "http://127.0.0.1:2"),
        (None, "", 2, "http://127.0.0.1:2"),
        (None, "::1", 2, "http://[::1]:2"),
    ],
)
def test_address_is_the_url_or_where_the_configuration_serves(url, host, port, expected):
    assert address(url, host, port, "web.port") == expected


@pytest.mark.parametrize(("url", "port"), [("ftp://a", 1), (None, 0), (None, None)])
def test_address_that_names_no_port_or_no_http_is_a_config_error(url, port):
    with pytest.raises(ConfigError):
        address(url, "h", port, "web.port")
