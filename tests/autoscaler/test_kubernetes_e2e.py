"""The whole program on Kubernetes: a real Prometheus, an API server that behaves, and several leaders."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from autoscaler.doubles import a_fleet, a_prometheus, until
from autoscaler.kube_server import a_deployment, a_kube_server

CONFIG = """
platform: {{kind: kubernetes, kubeconfig: "{kubeconfig}", timeout: 600ms}}
prometheus: {{url: "{prometheus}", scrape_interval: 250ms, window: 1s, timeout: 1s, max_age: 2s}}
interval: 100ms
web: {{host: 127.0.0.1, port: 0, page_port: null}}
leader: {{lease: {{duration: 2s, renew_interval: 200ms}}}}
defaults: {{start_up_time: 100ms, min_samples: 5, scale_down: {{stabilization_window: 0s}}}}
"""


@contextmanager
def a_process(config, log):
    """Run the program; give its process and a function that reads its decisions so far."""
    out = log.with_suffix(".jsonl")
    with out.open("wb") as stdout, log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "slo_autoscaler", "--config", str(config)],
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            yield process, lambda: [json.loads(line) for line in out.read_text().splitlines()]
        finally:
            process.kill()
            process.wait()


@pytest.mark.e2e
def test_a_deployment_follows_prometheus_under_one_leader_after_the_other(tmp_path):
    with a_fleet(capacity=100.0) as fleet, a_kube_server() as server:
        server.put("apps/v1", "deployments", a_deployment(autoscale="true", max_replicas="9"))
        # One endpoint is scraped, so one replica serves; what is asked for beyond it stays in starting.
        server.instantly_ready = False
        document = server.get("apps/v1", "deployments", "shop", "web")
        server.put("apps/v1", "deployments", {**document, "status": {"readyReplicas": 1}})
        fleet.rate = 250.0

        def replicas():
            return server.get("apps/v1", "deployments", "shop", "web")["spec"]["replicas"]

        def holder():
            leases = server.all("coordination.k8s.io/v1", "leases")
            return leases[0]["spec"].get("holderIdentity") if leases else None

        with a_prometheus(tmp_path, {"web.shop": [fleet.address]}) as prometheus:
            config = tmp_path / "as.yaml"
            config.write_text(
                CONFIG.format(kubeconfig=server.kubeconfig(tmp_path), prometheus=prometheus.url)
            )
            with a_process(config, tmp_path / "first") as (first, _):
                until(lambda: replicas() >= 3, "250/s on replicas of 100/s are at least 3")
                leader = holder()
                with a_process(config, tmp_path / "second") as (second, decisions):
                    until(decisions, "the second decides")
                    assert {line["mode"] for line in decisions()} == {"standby"}
                    first.kill()
                    until(lambda: holder() not in (None, leader), "the lease of the killed one runs out")
                    fleet.rate = 0.0
                    until(lambda: replicas() == 1, "the second acts")
                    second.send_signal(signal.SIGTERM)
                    assert second.wait(10) == 0
                assert holder() is None, "given back at once"
            reasons = {event["reason"] for event in server.all("v1", "events")}
            assert {"ScaledUp", "ScaledDown"} <= reasons
        assert "Traceback" not in (tmp_path / "second").read_text()
