"""``hold``: what it writes on each platform, and what it refuses."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from slo_autoscaler.__main__ import main
from slo_autoscaler.platforms.keys import HOLD
from slo_autoscaler.platforms.knative.objects import SERVING_SERVICES
from slo_autoscaler.platforms.kubernetes import DEPLOYMENTS
from slo_autoscaler.settings.schedule import Hold, hold_of
from support.cluster import on_double
from support.kube_server import a_deployment

END = datetime(2126, 12, 1, 9, tzinfo=UTC)
FUTURE = END.isoformat()


@pytest.fixture
def hold(kubeconfig, tmp_path):
    """Return the command with a configuration of a platform on the API server."""

    def hold(*words, kind="kubernetes"):
        config = tmp_path / "config.yaml"
        config.write_text(
            f"platform: {{kind: {kind}, kubeconfig: {kubeconfig}}}\nprometheus: {{url: http://p}}\n"
        )
        return main(["hold", *words, "--config", str(config)])

    return hold


@pytest.fixture
def deployed(cluster, namespace):
    """Return a function on plain Kubernetes, and a reader of its annotation."""
    cluster.create(DEPLOYMENTS.path(namespace), a_deployment("web", namespace, mode=""))
    path = DEPLOYMENTS.path(namespace, "web")
    return f"web.{namespace}", lambda: cluster.get(path)["metadata"].get("annotations", {}).get(HOLD)


def test_hold_until_writes_the_annotation_and_release_removes_it(deployed, hold, capsys):
    name, annotation = deployed
    assert hold(name, "--until", FUTURE, "--replicas", "6", "--reason", "freeze: model") == 0
    assert hold_of(annotation()) == Hold(until=END, replicas=6, reason="freeze: model")
    assert name in capsys.readouterr().out
    assert hold(name, "--release") == 0
    assert annotation() is None


def test_hold_name_alone_is_of_the_namespace_of_the_credentials_or_of_the_flag(
    deployed, hold, kubeconfig, capsys
):
    name, annotation = deployed
    alone, _, namespace = name.rpartition(".")
    assert hold(alone, "--for", "1h", "--namespace", namespace) == 0
    assert annotation() is not None
    present = yaml.safe_load(Path(kubeconfig).read_text())["contexts"][0]["context"].get(
        "namespace", "default"
    )
    assert hold("none", "--for", "1h") == 1
    assert f"/namespaces/{present}/" in capsys.readouterr().err


def test_hold_for_ends_that_long_from_now(deployed, hold):
    name, annotation = deployed
    before = datetime.now(UTC).replace(microsecond=0)
    assert hold(name, "--for", "2h") == 0
    written = hold_of(annotation())
    assert before <= written.until - timedelta(hours=2) <= datetime.now(UTC)
    assert (written.replicas, written.reason) == (None, "")


def test_hold_with_a_maximum_writes_a_cap(deployed, hold):
    name, annotation = deployed
    assert hold(name, "--until", FUTURE, "--max-replicas", "3") == 0
    assert hold_of(annotation()) == Hold(until=END, max_replicas=3)


@on_double
def test_hold_on_knative_annotates_the_service(cluster, namespace, hold):
    service = {"apiVersion": SERVING_SERVICES.api, "kind": "Service", "metadata": {"name": "tabular"}}
    cluster.create(SERVING_SERVICES.path(namespace), service)
    assert hold(f"tabular.{namespace}", "--until", FUTURE, kind="knative") == 0
    found = cluster.get(SERVING_SERVICES.path(namespace, "tabular"))
    assert hold_of(found["metadata"]["annotations"][HOLD]).until == END


def test_hold_through_openfaas_gateway_is_refused_with_the_annotation_to_deploy(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("platform: {gateway_url: http://g}\nprometheus: {url: http://p}\n")
    assert main(["hold", "vision.openfaas-fn", "--until", FUTURE, "--config", str(config)]) == 1
    assert f'com.tailbound.hold: {{"until": "{FUTURE}"}}' in capsys.readouterr().err


@pytest.mark.parametrize(("name", "what"), [("none", "404"), ("plain", "no label tailbound.dev/mode")])
def test_hold_of_a_deployment_that_is_not_scaled_says_so(cluster, namespace, hold, capsys, name, what):
    cluster.create(DEPLOYMENTS.path(namespace), a_deployment("plain", namespace))
    assert hold(f"{name}.{namespace}", "--for", "1h") == 1
    assert what in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["web.shop"], "--until --for --release"),
        (["web.shop", "--for", "0s"], "'0s' must be a duration above 0"),
        (["web.shop", "--for", "soon"], "'soon' must be a duration"),
        (["web.shop", "--until", "09:00"], "'09:00' must be a time"),
        (["web.shop", "--until", "2020-01-01T00:00:00Z"], "must not be over"),
        (["web.shop", "--for", "1h", "--replicas", "0"], "'0' must be a whole number of at least 1"),
        (["web.shop", "--for", "1h", "--until", FUTURE], "not allowed with"),
        (["web.shop", "--for", "1h", "--replicas", "2", "--max-replicas", "3"], "not allowed with"),
    ],
)
def test_hold_wrong_command_line_is_status_2_and_told(words, what, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["hold", *words])
    assert ended.value.code == 2
    assert what in capsys.readouterr().err
