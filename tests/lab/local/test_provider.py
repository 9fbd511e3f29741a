"""The provider contract, route by route, over real sockets."""

import base64
import json
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from lab.local.harness import TWO, on_platform, until
from tailbound_lab.local.metrics import GatewayMetrics
from tailbound_lab.local.secrets import Secrets

ECHO = {"service": "echo", "image": "echo:latest"}
NAME = ("function_name", "echo.openfaas-fn")


def samples(exposition):
    """The values of an exposition by name and (label, value) pairs."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


@on_platform()
async def test_a_deployed_function_is_listed_as_it_is(client):
    assert (await client.call("GET", "/system/functions")).json() == []  # not null
    asked = {
        "labels": TWO | {"team": "ml"},
        "annotations": {"a.b/c": "d"},
        "envVars": {"slo_latency": "50ms"},
        "limits": {"memory": "1Gi"},
        "readOnlyRootFilesystem": True,
    }
    await client.deploy(constraints=None, secrets=[], envProcess="", **asked)
    (listed,) = (await client.call("GET", "/system/functions?namespace=openfaas-fn")).json()
    assert listed | asked | ECHO | {"namespace": "openfaas-fn"} | {"replicas": 2, "availableReplicas": 2} == (
        listed | {"service": "echo"}
    )
    assert listed["name"] == "echo"
    assert datetime.fromisoformat(listed["createdAt"]).tzinfo is not None
    await client.call("GET", "/function/echo")
    for path in ("echo", "echo.openfaas-fn", "echo?namespace=openfaas-fn&usage=1"):
        answer = await client.call("GET", f"/system/function/{path}")
        assert (answer.json()["name"], answer.json()["invocationCount"]) == ("echo", 1)
    for path in ("nope", "echo.other", "echo?namespace=other"):
        assert await client.status("GET", f"/system/function/{path}") == 404


@on_platform()
async def test_a_function_is_created_updated_and_removed_with_the_statuses_that_faas_cli_wants(client):
    # Not logged in, faas-cli sends a token all the same.
    client.defaults = {"headers": {"Authorization": "Bearer "}}
    gone = {"functionName": "echo", "namespace": ""}
    for method, body, status in (
        ("DELETE", gone, 404),
        ("PUT", ECHO, 404),  # so that faas-cli creates it
        ("POST", ECHO, 202),
        ("PUT", ECHO, 202),
    ):
        assert await client.status(method, "/system/functions", body) == status
    await client.platform.settled()
    function = client.function
    assert await client.status("DELETE", "/system/functions", gone) == 202
    assert (await client.call("GET", "/system/functions")).json() == []
    assert await client.status("GET", "/function/echo") == 404
    await until(lambda: not function.replicas)
    await client.deploy()  # the name is free again


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/system/functions", {"service": "Echo", "image": "echo:latest"}),
        ("POST", "/system/functions", {"service": "echo"}),
        ("POST", "/system/functions", {"service": "echo", "image": "other"}),
        ("POST", "/system/functions", ECHO | {"secrets": ["token"]}),
        ("POST", "/system/functions", ECHO | {"envVars": {"a": 1}}),
        ("POST", "/system/functions", "text"),
        ("DELETE", "/system/functions", {}),
        ("POST", "/system/scale-function/echo", {"replicas": -1}),
        ("POST", "/system/scale-function/echo", {"replicas": "two"}),
        ("POST", "/system/scale-function/echo", {}),
        ("POST", "/system/secrets", {"name": "../token", "value": "x"}),
        ("POST", "/system/secrets", {"name": "token"}),
        ("POST", "/system/secrets", {"name": "a", "rawValue": "?"}),
    ],
)
@on_platform()
async def test_a_bad_body_is_400_in_one_line(client, method, path, body):
    answer = await client.call(method, path, json=body)
    assert (answer.status, answer.text.count("\n")) == (400, 1)
    assert (await client.call(method, path, data=b"{not json")).status == 400


@on_platform()
async def test_scaling_is_reported_as_it_happens(client):
    assert await client.scale(1) == 404
    await client.deploy()
    assert await client.scale(3) == 202
    assert (await client.read())[0] == 3
    await client.platform.settled()
    assert await client.read() == (3, 3)
    assert await client.scale(1) == 202
    assert await client.read() == (1, 1)
    await until(lambda: len(client.function.replicas) == 1)
    assert [line.text for line in client.function.log.lines(instance="echo")] == [
        "replicas: 1 -> 3",
        "replicas: 3 -> 1",
    ]


@on_platform(max_replicas=2)
async def test_a_cap_holds_and_can_be_read_back(client):
    await client.deploy()
    assert await client.scale(9) == 202
    assert (await client.read())[0] == 2


@on_platform()
async def test_namespaces_keep_functions_of_one_name_apart(client):
    await client.deploy(namespace="dev")
    assert (await client.call("GET", "/system/functions")).json() == []
    assert len((await client.call("GET", "/system/functions?namespace=dev")).json()) == 1
    assert await client.status("GET", "/function/echo") == 404
    assert await client.status("GET", "/function/echo.dev") == 200
    path = "/system/functions?namespace=dev"
    assert await client.status("DELETE", path, {"functionName": "echo"}) == 202


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@on_platform()
async def test_secrets_are_kept_privately_listed_without_values_and_given_to_functions(client):
    async def change(method, **body):
        return await client.status(method, "/system/secrets", body)

    assert await change("POST", name="token", value="abc") == 202
    assert await change("POST", name="token", value="abc") == 409
    assert await change("POST", name="key", rawValue=base64.b64encode(b"\x00\xff").decode()) == 202
    listed = (await client.call("GET", "/system/secrets?namespace=openfaas-fn")).json()
    assert listed == [{"name": name, "namespace": "openfaas-fn"} for name in ("key", "token")]
    kept = client.folder / "run" / "secrets" / "openfaas-fn" / "token"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    await client.deploy(secrets=["key"])
    environ = (await client.call("GET", "/function/echo")).json()["environ"]
    assert contents(environ["secret_mount_path"]) == {"key": b"\x00\xff"}
    assert await change("PUT", name="token", value="new") == 202
    assert kept.read_text() == "new"
    assert await change("DELETE", name="token") == 202
    assert await change("PUT", name="token", value="x") == 404
    assert await change("DELETE", name="token") == 404


@on_platform()
async def test_logs_are_ndjson_with_tail_since_and_instance(client):
    await client.deploy()
    await client.call("GET", "/function/echo/say?word")
    await until(lambda: len(client.function.log.lines()) == 2)

    async def logs(query):
        answer = await client.call("GET", f"/system/logs?name=echo&{query}")
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.text.splitlines()]

    first, second = await logs("follow=true&namespace=&since=&tail=-1")
    assert (first["text"], second["text"]) == ("stand-in listens", "word")
    assert (first["name"], first["namespace"], first["instance"]) == ("echo", "openfaas-fn", "echo-1")
    assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None
    assert await logs("tail=1") == [second]
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert await logs(f"since={later}") == await logs("instance=echo-2") == []
    for query in ("", "name=echo&tail=many", "name=echo&since=yesterday", "name=echo&since=2026-01-01"):
        assert await client.status("GET", f"/system/logs?{query}") == 422
    assert await client.status("GET", "/system/logs?name=nope") == 404


@on_platform()
async def test_info_has_the_shape_that_its_reader_wants(client):
    for_cli = (await client.call("GET", "/system/info")).json()
    assert for_cli["provider"]["provider"] == "local-openfaas"
    gateway = {"X-Forwarded-Host": "gateway:8080"}
    for_gateway = (await client.call("GET", "/system/info", headers=gateway)).json()
    assert for_gateway["orchestration"] == "processes"


@on_platform()
async def test_discovery_lists_every_running_replica_in_prometheus_shape(client):
    assert (await client.call("GET", "/sd/replicas")).json() == []
    await client.deploy(labels=TWO)
    assert (await client.call("GET", "/sd/replicas")).json() == [
        {
            "targets": [f"127.0.0.1:{replica.metrics_port}"],
            "labels": {"function_name": "echo.openfaas-fn", "replica": name},
        }
        for replica, name in zip(client.function.replicas, ("echo-1", "echo-2"), strict=True)
    ]


@on_platform()
async def test_the_metrics_have_the_gateways_names_and_labels(client):
    await client.deploy(labels=TWO)
    await client.call("GET", "/function/echo")
    await client.call("GET", "/function/echo/status?503")
    answer = await client.call("GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    values = samples(answer.body)
    assert {(name, *(key for key, _ in labels)) for name, *labels in values} == {
        ("gateway_functions_seconds_bucket", "code", "function_name", "le"),
        ("gateway_functions_seconds_count", "code", "function_name"),
        ("gateway_functions_seconds_sum", "code", "function_name"),
        ("gateway_function_invocation_total", "code", "function_name"),
        ("gateway_function_invocation_started", "function_name"),
        ("gateway_service_count", "function_name"),
    }
    assert values["gateway_function_invocation_total", ("code", "503"), NAME] == 1
    assert values["gateway_function_invocation_started", NAME] == 2
    assert values["gateway_service_count", NAME] == 2


@given(seconds=st.lists(st.floats(0, 20), min_size=1, max_size=30))
def test_a_bucket_counts_what_is_not_longer_than_its_edge(seconds):
    metrics = GatewayMetrics(list)
    for value in seconds:
        metrics.finished("f.ns", 200, value)
    values = samples(metrics.exposition())
    labels = (("code", "200"), ("function_name", "f.ns"))
    for edge in ("0.005", "0.1", "10.0", "+Inf"):
        count = values["gateway_functions_seconds_bucket", *labels, ("le", edge)]
        assert count == sum(value <= float(edge) for value in seconds)
    assert values["gateway_functions_seconds_count", *labels] == metrics.invocations("f.ns")


@on_platform()
async def test_an_unforeseen_error_is_a_500_without_its_cause(client):
    Secrets.names, names = lambda *_: 1 / 0, Secrets.names
    try:
        answer = await client.call("GET", "/system/secrets")
    finally:
        Secrets.names = names
    assert (answer.status, "ZeroDivisionError" in answer.text) == (500, False)
    assert await client.status("HEAD", "/healthz") == 200


@pytest.fixture
def auth(tmp_path):
    for name, text in (("user", "admin\n"), ("password", "pass:word\n")):
        (tmp_path / f"basic-auth-{name}").write_text(text)
    return tmp_path


def test_basic_auth_guards_the_system_routes_and_nothing_else(auth):
    def header(text):
        return {"headers": {"Authorization": text}}

    @on_platform(basic_auth_dir=auth)
    async def scenario(client):
        for bad in ("", "Bearer ", "Basic " + base64.b64encode(b"admin:wrong").decode(), "Basic ???"):
            answer = await client.call("GET", "/system/functions", **header(bad))
            assert (answer.status, "WWW-Authenticate" in answer.headers) == (401, True)
        for path in ("/healthz", "/metrics", "/sd/replicas"):
            assert await client.status("GET", path) == 200
        client.defaults = header("Basic " + base64.b64encode(b"admin:pass:word").decode())
        await client.deploy()
        client.defaults = {}
        assert await client.status("GET", "/function/echo") == 200

    scenario(auth)
