"""What both commands have in common: where they ask, and what they say without a usable answer."""

import pytest

from slo_autoscaler.cli import explain, status
from slo_autoscaler.cli.client import address
from slo_autoscaler.errors import ConfigError
from support import doubles
from support.builders import NAME
from support.doubles import a_gateway
from tailbound_lab.local.ports import free_ports

COMMANDS = {"explain": lambda words: explain.main([NAME, *words]), "status": status.main}


@pytest.fixture(params=COMMANDS)
def command(request):
    return COMMANDS[request.param]


@pytest.mark.parametrize(
    ("url", "host", "port", "expected"),
    [
        ("http://a:1/", "h", 2, "http://a:1"),
        (None, "h", 2, "http://h:2"),
        (None, "0.0.0.0", 2, "http://127.0.0.1:2"),
        (None, "", 2, "http://127.0.0.1:2"),
        (None, "::1", 2, "http://[::1]:2"),
        ("ftp://a", "h", 1, ConfigError),
        (None, "h", 0, ConfigError),
        (None, "h", None, ConfigError),
    ],
)
def test_address_is_the_url_or_where_the_configuration_serves(url, host, port, expected):
    if expected is ConfigError:
        with pytest.raises(ConfigError):
            address(url, host, port, "web.port")
    else:
        assert address(url, host, port, "web.port") == expected


@pytest.mark.parametrize(
    "fault",
    [
        *(doubles.status(*answer) for answer in ((500,), (200, b'{"a": 1}'))),
        doubles.garbage,
        doubles.half(b"{}"),
    ],
)
def test_a_wrong_server_at_the_port_is_status_1_with_its_address(command, fault, capsys):
    with a_gateway() as other:
        other.faults["GET"] = fault
        assert command(["--url", other.url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert other.url in line


def test_command_without_a_listener_exits_with_status_1(command, capsys):
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    assert command(["--url", url]) == 1
    told = capsys.readouterr()
    assert (told.out, url in told.err, "--url" in told.err) == ("", True, True)


@pytest.mark.parametrize("port", ["port: 0, page_port: 0", "port: x, page_port: x"])
def test_a_configuration_without_an_address_is_status_2(command, tmp_path, capsys, port):
    config = tmp_path / "as.yaml"
    config.write_text(f"web: {{{port}}}\n")
    assert command(["--config", str(config)]) == 2
    assert "web." in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value"), [("--config", "/no/file"), ("--url", "file:///etc/passwd")])
def test_an_unusable_argument_is_status_2(command, flag, value, capsys):
    assert command([flag, value]) == 2
    assert value in capsys.readouterr().err
