"""The command: its exit statuses and messages, and the whole program on a real Prometheus."""

import json
import signal
import subprocess
import sys
import urllib.request

import pytest

from slo_autoscaler.app import main
from slo_autoscaler.settings.fields import REMOVED
from support.doubles import Function, a_fleet, a_gateway, a_process, a_prometheus, an_empty_prometheus
from support.kube_server import a_deployment, a_kube_server, a_pod, a_replica_set, a_running_pod
from support.waits import until
from tailbound_lab.local.ports import free_ports

FAST = """
platform: {gateway_url: "http://127.0.0.1:1", timeout: 1s}
prometheus: {url: "http://127.0.0.1:1", scrape_interval: 250ms, window: 1s, timeout: 1s, max_age: 2s}
interval: 200ms
web: {host: 127.0.0.1, port: 0, page_port: null, probe_port: null}
defaults: {start_up_time: 100ms, min_samples: 5, scale_down: {stabilization_window: 1s}}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "as.yaml"
    path.write_text(FAST)
    return path


@pytest.mark.parametrize(
    ("content", "lines"),
    [(FAST.encode() + b"intervall: 3\nfunctions: {x: {}}\n", 2), (None, 1), (b"\xff", 1)],
)
def test_run_configuration_that_cannot_be_used_is_status_2_and_a_line_for_each_fault(
    tmp_path, capsys, content, lines
):
    path = tmp_path / "as.yaml"
    if content is not None:
        path.write_bytes(content)
    assert main(["--config", str(path)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [str(path) in line for line in told] == [True] * lines


def test_once_is_status_1_when_nothing_can_be_reached_and_2_when_its_port_is_taken(config, capsys):
    assert main(["--config", str(config), "--once"]) == 1
    with a_gateway() as taken:
        port = taken.url.rpartition(":")[2]
        assert main(["--config", str(config), "--web-port", port]) == 2
    told = capsys.readouterr()
    assert (told.out, port in told.err) == ("", True)


def test_once_is_status_0_when_all_went_well_and_flags_win_over_variables(config, capsys, monkeypatch):
    with a_gateway(a=Function(1)) as gateway, an_empty_prometheus() as prometheus:
        monkeypatch.setenv("SLO_AUTOSCALER_GATEWAY_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("SLO_AUTOSCALER_PROMETHEUS_URL", prometheus.url)
        assert main(["--config", str(config), "--once", "--decision-log", "--gateway-url", gateway.url]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["reason"] == "NoData"


KUBERNETES = """
platform: {{kind: kubernetes, kubeconfig: "{kubeconfig}", timeout: 2s}}
prometheus: {{url: "http://127.0.0.1:1", timeout: 1s}}
leader: {{lease: {{namespace: ours}}}}
"""


@pytest.fixture
def cluster(tmp_path):
    """Return an API server with a Deployment of ours, and the path of a configuration for it."""
    with a_kube_server() as server:
        server.put("apps/v1", "deployments", a_deployment(mode="active"))
        path = tmp_path / "kubernetes.yaml"
        path.write_text(KUBERNETES.format(kubeconfig=server.kubeconfig(tmp_path)))
        yield server, path


def test_on_kubernetes_once_decides_as_the_leader_and_gives_the_lease_back(cluster, capsys):
    server, path = cluster
    with an_empty_prometheus() as prometheus:
        assert (
            main(["--config", str(path), "--once", "--decision-log", "--prometheus-url", prometheus.url]) == 0
        )
    (line,) = capsys.readouterr().out.splitlines()
    decision = json.loads(line)
    assert (decision["function_name"], decision["mode"], decision["reason"]) == (
        *("web.shop", "active", "NoData"),
    )
    (lease,) = server.all("coordination.k8s.io/v1", "leases")
    assert "holderIdentity" not in lease["spec"]


@pytest.mark.e2e
def test_a_killed_autoscaler_that_is_started_again_takes_its_own_lease_at_once(cluster, tmp_path):
    server, path = cluster
    # Another one would have to wait for this long.
    path.write_text(path.read_text().replace("namespace: ours", "namespace: ours, duration: 600s"))
    path.write_text(path.read_text() + "web: {host: 127.0.0.1, port: 0, page_port: null, probe_port: null}\n")
    for number in range(2):
        with a_process(path, tmp_path / f"log{number}") as (process, _):
            log = tmp_path / f"log{number}"
            until(lambda log=log: "is leader, by the lease" in log.read_text(), "it leads")
            process.kill()
            process.wait()
    (lease,) = server.all("coordination.k8s.io/v1", "leases")
    assert lease["spec"]["leaseTransitions"] == 0


@pytest.mark.e2e
def test_started_without_a_boost_in_its_configuration_restores_pods_that_were_left_boosted(cluster, tmp_path):
    server, path = cluster
    path.write_text(path.read_text() + "web: {host: 127.0.0.1, port: 0, page_port: null, probe_port: null}\n")
    resources = {"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}
    owner = a_replica_set("web", "shop", {"name": "model", "resources": resources})
    pod = a_running_pod(owner)
    pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "1500m"
    server.put("apps/v1", "replicasets", owner)
    server.put("v1", "pods", pod)

    def limit():
        (found,) = server.all("v1", "pods")
        return found["spec"]["containers"][0]["resources"]["limits"]["cpu"]

    with an_empty_prometheus() as prometheus:
        words = ("--prometheus-url", prometheus.url)
        with a_process(path, tmp_path / "log", *words):
            until(lambda: limit() == "500m", "it is restored")


@pytest.mark.e2e
def test_started_without_prometheus_it_scales_up_by_the_pages_of_the_pods(cluster, tmp_path):
    server, path = cluster
    server.put("apps/v1", "deployments", a_deployment(replicas=1, mode="active"))
    path.write_text(
        path.read_text()
        + "web: {host: 127.0.0.1, port: 0, page_port: null, probe_port: null}\ninterval: 1s\n"
    )
    with a_fleet(capacity=100.0) as fleet:
        fleet.rate = 1000.0
        pod = a_pod("web")
        pod["metadata"]["annotations"] = {"tailbound.dev/metrics-port": fleet.address.rpartition(":")[2]}
        pod["status"] = {"phase": "Running", "podIP": "127.0.0.1"}
        server.put("v1", "pods", pod)

        def replicas():
            (found,) = server.all("apps/v1", "deployments")
            return found["spec"]["replicas"]

        with a_process(path, tmp_path / "log"):
            until(lambda: replicas() > 1, "it scales up")


def test_a_shadow_of_all_leaves_the_lease_to_those_that_act(cluster, capsys, monkeypatch):
    server, path = cluster
    monkeypatch.setenv("SLO_AUTOSCALER_DECISION_LOG", "true")
    main(["--config", str(path), "--once", "--max-mode", "shadow"])
    main(["--config", str(path), "--once", "--dry-run"])
    monkeypatch.setenv("SLO_AUTOSCALER_MAX_MODE", "shadow")
    main(["--config", str(path), "--once"])
    assert {json.loads(line)["mode"] for line in capsys.readouterr().out.splitlines()} == {"shadow"}
    assert server.all("coordination.k8s.io/v1", "leases") == []
    assert {call.verb for call in server.calls} <= {"get", "list", "watch"}


@pytest.mark.parametrize(
    ("flag", "mode", "named"),
    [
        (None, "dry", "SLO_AUTOSCALER_MAX_MODE: 'dry' must be one of active, recommend"),
        ("--lock", None, REMOVED["--lock"]),
        ("--kubeconfig", None, "platform.kubeconfig: "),
    ],
)
def test_an_unusable_word_is_status_2_and_named(cluster, capsys, tmp_path, monkeypatch, flag, mode, named):
    _, path = cluster
    if mode is not None:
        monkeypatch.setenv("SLO_AUTOSCALER_MAX_MODE", mode)
    if flag == "--kubeconfig":
        path.write_text(KUBERNETES.format(kubeconfig=tmp_path / "none"))
    words = ["--lock=/tmp/lock"] if flag == "--lock" else []
    assert main(["--config", str(path), "--once", *words]) == 2
    assert named in capsys.readouterr().err


def test_boost_without_a_cluster_is_named_and_functions_are_scaled_on(config, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    config.write_text(config.read_text().replace("defaults: {", "defaults: {boost: {max_factor: 3}, "))
    with a_gateway(a=Function(1)) as gateway:
        with a_process(config, tmp_path / "log", "--gateway-url", gateway.url):
            until(lambda: len(gateway.requests) > 3, "it reconciles")
        assert (tmp_path / "log").read_text().count("boost: no pod can be boosted: no credentials") == 1


def test_run_with_closed_stdout_logs_it_once_and_goes_on(config):
    with a_gateway(a=Function(1)) as gateway:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "slo_autoscaler", "--config", str(config)),
                *("--decision-log", "--gateway-url", gateway.url),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.close()
        until(lambda: len(gateway.requests) > 8, "it reconciles")
        process.send_signal(signal.SIGINT)
        log = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(10) == 0
    assert log.count("decision log") == 1
    assert "Traceback" not in log


def reasons(decisions):
    return [decision["reason"] for decision in decisions]


@pytest.mark.e2e
def test_on_a_real_prometheus_it_scales_up_and_down_and_holds_when_prometheus_dies(config, tmp_path):
    (port,) = free_ports(1)
    with a_fleet(capacity=100.0) as fleet, a_gateway(a=Function(1)) as gateway:
        # One endpoint is scraped, so one replica serves; the others stay in starting.
        function = gateway.functions["a"]
        function.available = 1
        fleet.rate = 250.0
        with (
            a_prometheus(tmp_path, {"a.openfaas-fn": [fleet.address]}) as prometheus,
            a_process(
                config,
                tmp_path / "log",
                *("--gateway-url", gateway.url, "--prometheus-url", prometheus.url, "--web-port", str(port)),
            ) as (process, decisions),
        ):
            until(lambda: function.replicas >= 3, "250/s on replicas of 100/s are at least 3 replicas")
            until(lambda: "LoadAboveCapacity" in reasons(decisions()), "the decision is logged")

            fleet.rate = 0.0
            until(lambda: function.replicas == 1, "no traffic is the minimum")
            fleet.rate = 250.0
            until(lambda: function.replicas >= 3, "the peak comes back")
            prometheus.kill()
            until(lambda: reasons(decisions())[-1] == "NoData", "without Prometheus it holds")
            held, replicas = len(gateway.posted), function.replicas
            requests = len(gateway.requests)
            until(lambda: len(gateway.requests) > requests + 20, "it goes on reading, past every window")
            assert len(gateway.posted) == held
            assert function.replicas == replicas

            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                assert answer.status == 200, "holding is not being ill"

            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.e2e
def test_on_a_real_prometheus_it_follows_queue_hold_and_schedule_and_names_a_count_set_by_hand(
    config, tmp_path
):
    also = "{also: [{name: queue, query: vector(30), target: 10}], "
    config.write_text(FAST.replace("defaults: {", f"defaults: {also}"))
    hold = '{"until": "2126-12-01T09:00:00Z", "replicas": 2, "reason": "freeze"}'
    schedule = '[{"cron": "* * * * *", "duration": "2m", "min_replicas": 5}]'
    with a_fleet(capacity=100.0) as fleet, a_gateway(a=Function(1)) as gateway:
        function = gateway.functions["a"]
        function.available = 1
        fleet.rate = 20.0
        with (
            a_prometheus(tmp_path, {"a.openfaas-fn": [fleet.address]}) as prometheus,
            a_process(
                config,
                tmp_path / "log",
                *("--gateway-url", gateway.url, "--prometheus-url", prometheus.url),
            ) as (_, decisions),
        ):
            until(lambda: function.replicas == 3, "30 messages are three replicas")
            assert "FurtherMetric" in reasons(decisions())
            function.annotations = {"com.tailbound.hold": hold}
            until(lambda: function.replicas == 2, "it is held at two")
            function.annotations = {"com.tailbound.schedule": schedule}
            until(lambda: function.replicas == 5, "the schedule wants five")
            function.replicas = 6
            until(lambda: "SetByHand" in reasons(decisions()), "another client's count is named")
    details = {each["reason"]: each.get("detail") for each in decisions()}
    assert details["Held"] == "until 2126-12-01 09:00 UTC: freeze"
    assert details["SetByHand"] == "from 5 to 6"
    assert "Traceback" not in (tmp_path / "log").read_text()
