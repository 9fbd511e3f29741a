"""What both commands have in common: where they ask, and what they say without a usable answer."""

import socket
import threading

import pytest

from autoscaler import doubles
from autoscaler.doubles import a_gateway, free_port
from autoscaler.values import NAME
from slo_autoscaler.cli import explain, status
from slo_autoscaler.cli.client import address
from slo_autoscaler.errors import ConfigError

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
    ],
)
def test_address_is_the_url_or_where_the_configuration_serves(url, host, port, expected):
    assert address(url, host, port, "web.port") == expected


@pytest.mark.parametrize(("url", "port"), [("ftp://a", 1), (None, 0), (None, None)])
def test_address_that_names_no_port_or_no_http_is_a_config_error(url, port):
    with pytest.raises(ConfigError):
        address(url, "h", port, "web.port")


@pytest.mark.parametrize("fault", [doubles.status(500), doubles.garbage, doubles.status(200, b'{"a": 1}')])
def test_a_wrong_server_at_the_port_is_status_1_with_its_address(command, fault, capsys):
    with a_gateway() as other:
        other.faults["GET"] = fault
        assert command(["--url", other.url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert other.url in line


def test_command_without_a_listener_exits_with_status_1(command, capsys):
    url = f"http://127.0.0.1:{free_port()}"
    assert command(["--url", url]) == 1
    told = capsys.readouterr()
    assert (told.out, url in told.err) == ("", True)


def test_an_answer_that_ends_in_the_middle_is_complained_of_in_a_line(command, capsys):
    def cut_off():
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = threading.Thread(target=cut_off)
        answering.start()
        assert command(["--url", f"http://127.0.0.1:{listener.getsockname()[1]}"]) == 1
        answering.join(10)
    (line,) = capsys.readouterr().err.splitlines()
    assert "127.0.0.1" in line


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
