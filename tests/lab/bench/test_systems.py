"""How systems are named, and that each can be started by its entry."""

import http.client
import json
import subprocess
import sys
import zlib

import pytest

from tailbound_lab.bench.rig.peers import python_of
from tailbound_lab.bench.rig.server import Server
from tailbound_lab.bench.rig.systems import SYSTEMS, Launch, Settings, grid_of, parse_entry
from tailbound_lab.bench.workloads import WORKLOADS
from tailbound_lab.load.records import BenchError, NotAvailable


def test_a_name_alone_has_the_systems_own_settings():
    entry = parse_entry("mosec")
    assert (entry.settings, entry.grid) == (Settings(4, 10), False)


def test_size_and_wait_may_follow_the_name():
    assert parse_entry("fixed:32:5+malloc").settings == Settings(32, 5, malloc=True)


def test_a_grid_has_every_size_of_the_workload_with_every_wait():
    points = grid_of(parse_entry("mosec-grid+malloc"), WORKLOADS["vision"])
    assert len(points) == len(set(points)) == len(WORKLOADS["vision"].sizes) * 3
    assert all(point.malloc for point in points)


@pytest.mark.parametrize(
    "text", ["", "mosek", "mosec:1", "mosec:0:1", "mosec:a:1", "mosec+speed", "slo-grid", "mosec-grid:1:2"]
)
def test_a_name_that_means_nothing_is_refused_with_its_text(text):
    with pytest.raises(BenchError, match=f"system '{text.replace('+', '.')}'"):
        parse_entry(text)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_says_how_it_is_started_or_why_it_can_not(name, tmp_path):
    system = SYSTEMS[name]
    launch = Launch(1234, WORKLOADS["tabular"], 2, system.settings, "/python", tmp_path)
    try:
        command = system.launch(launch)
    except NotAvailable:
        pytest.skip(f"{name} is not available here")
    told = [*command.arguments, *command.environment.values()]
    assert any("1234" in word for word in told)


def test_only_the_target_is_set_for_the_policy_slo(tmp_path):
    launch = Launch(1234, WORKLOADS["text"], 2, Settings(), "/python", tmp_path)
    environment = SYSTEMS["slo"].launch(launch).environment
    assert environment["slo_latency"] == "50ms"
    assert not {"max_batch_size", "max_batch_delay", "max_inflight"} & environment.keys()


def test_a_peer_that_can_not_be_installed_is_not_available_and_leaves_nothing(tmp_path):
    with pytest.raises(NotAvailable, match="pip install"):
        python_of(tmp_path, "broken", (str(tmp_path / "no-such-package"),))
    assert not (tmp_path / "broken").exists()


def test_every_workload_has_a_handler_with_an_example():
    for workload in WORKLOADS.values():
        source = (workload.folder / "handler.py").read_text()
        assert "def handle_batch(" in source
        assert "def example(" in source


def test_text_answers_bad_bodies_alone():
    code = (
        "import handler; from types import SimpleNamespace as N; c = N(model=handler.load());"
        "a, b = handler.handle_batch([N(body=b'{}'), N(body=handler.example())], c);"
        "assert a['statusCode'] == 400, a; assert 0 <= b['score'] <= 1, b"
    )
    subprocess.run([sys.executable, "-c", code], cwd=WORKLOADS["text"].folder, check=True)


@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_server_under_measurement_answers_and_leaves_no_process(tmp_path):
    system, workload = SYSTEMS["slo"], WORKLOADS["accelerator"]
    with Server(system, system.settings, workload, 1, b"warm", tmp_path) as server:
        body = b"y" * 100_000
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", "/", body)
        response = connection.getresponse()
        told = {"checksum": zlib.crc32(body), "bytes": len(body)}
        assert (response.status, json.loads(response.read())) == (200, told)
        connection.close()
        assert server.usage()
    assert not server.usage()
