"""The provider contract, route by route, over real sockets."""

import asyncio
import base64
import json
import stat
from datetime import UTC, datetime, timedelta

import pytest

from lab.local.harness import platform_client, until, with_platform
from tailbound_lab.local.secrets import Secrets


async def chunks(*parts: bytes):
    for part in parts:
        yield part


def test_the_list_is_empty_and_not_null_before_the_first_deployment(tmp_path):
    async def scenario(client):
        answer = await client.call("GET", "/system/functions")
        assert (answer.status, answer.json()) == (200, [])

    with_platform(tmp_path, scenario)


def test_a_create_is_202_and_the_function_is_listed_truthfully(tmp_path):
    async def scenario(client):
        await client.deploy(
            labels={"com.openfaas.scale.min": "2", "team": "ml"},
            annotations={"a.b/c": "d"},
            envVars={"slo_latency": "50ms"},
        )
        (function,) = (await client.call("GET", "/system/functions?namespace=openfaas-fn")).json()
        assert function["name"] == "echo"
        assert function["image"] == "echo:latest"
        assert function["namespace"] == "openfaas-fn"
        assert function["labels"] == {"com.openfaas.scale.min": "2", "team": "ml"}
        assert function["annotations"] == {"a.b/c": "d"}
        assert function["envVars"] == {"slo_latency": "50ms"}
        assert (function["replicas"], function["availableReplicas"]) == (2, 2)
        assert datetime.fromisoformat(function["createdAt"]).tzinfo is not None

    with_platform(tmp_path, scenario)


def test_replicas_that_are_not_ready_are_not_available(tmp_path):
    async def scenario(client):
        await client.deploy(ready=False, envVars={"never_ready": "true"})
        (function,) = client.platform.registry
        await until(lambda: function.replicas[0].pid)
        status = await client.read()
        assert (status["replicas"], status["availableReplicas"]) == (1, 0)

    with_platform(tmp_path, scenario)


def test_updating_an_unknown_function_is_404_so_that_faas_cli_creates_it(tmp_path):
    async def scenario(client):
        body = {"service": "echo", "image": "echo:latest"}
        assert (await client.call("PUT", "/system/functions", json=body)).status == 404
        assert (await client.call("POST", "/system/functions", json=body)).status == 202
        assert (await client.call("PUT", "/system/functions", json=body)).status == 202

    with_platform(tmp_path, scenario)


def test_an_update_keeps_the_count_and_answers_all_the_while(tmp_path):
    async def scenario(client):
        await client.deploy(envVars={"version": "1"})
        await client.call("POST", "/system/scale-function/echo", json={"serviceName": "echo", "replicas": 2})
        await client.platform.settled()
        body = {"service": "echo", "image": "echo:latest", "envVars": {"version": "2"}}
        assert (await client.call("PUT", "/system/functions", json=body)).status == 202
        versions = []
        while not versions or (await client.read())["availableReplicas"] < 2 or versions[-1] != "2":
            answer = await client.call("GET", "/function/echo")
            assert answer.status == 200
            versions.append(answer.json()["environ"]["version"])
        await client.platform.settled()
        assert (await client.read())["replicas"] == 2

    with_platform(tmp_path, scenario)


def test_a_broken_update_leaves_the_old_replicas_serving(tmp_path):
    async def scenario(client):
        await client.deploy()
        body = {"service": "echo", "image": "echo:latest", "envVars": {"crash_on_start": "true"}}
        assert (await client.call("PUT", "/system/functions", json=body)).status == 202
        (function,) = client.platform.registry
        await until(lambda: any(replica.starts > 1 for replica in function.replicas))
        assert (await client.call("GET", "/function/echo")).status == 200

    with_platform(tmp_path, scenario)


def test_a_removed_function_is_gone_at_once_and_its_processes_soon(tmp_path):
    async def scenario(client):
        await client.deploy()
        (function,) = client.platform.registry
        answer = await client.call("DELETE", "/system/functions", json={"functionName": "echo"})
        assert answer.status == 202
        assert (await client.call("GET", "/system/functions")).json() == []
        assert (await client.call("GET", "/function/echo")).status == 404
        assert (await client.call("DELETE", "/system/functions", json={"functionName": "echo"})).status == 404
        await until(lambda: not function.replicas)
        # The same name is free again while nothing is left of the first.
        await client.deploy()

    with_platform(tmp_path, scenario)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"service": "Echo", "image": "echo:latest"}, "DNS label"),
        ({"service": "echo"}, "image: required"),
        ({"service": "echo", "image": "other"}, "'other' is not known here"),
        ({"service": "echo", "image": "echo:latest", "secrets": ["token"]}, "'token' does not exist"),
        ({"service": "echo", "image": "echo:latest", "envVars": {"a": 1}}, "envVars"),
        ("text", "JSON object"),
    ],
)
def test_a_bad_deployment_is_400_and_says_why(tmp_path, body, words):
    async def scenario(client):
        answer = await client.call("POST", "/system/functions", json=body)
        assert answer.status == 400
        assert words in answer.text

    with_platform(tmp_path, scenario)


def test_a_body_that_is_no_json_is_400(tmp_path):
    async def scenario(client):
        for method, path in (
            ("POST", "/system/functions"),
            ("PUT", "/system/functions"),
            ("DELETE", "/system/functions"),
            ("POST", "/system/scale-function/echo"),
            ("POST", "/system/secrets"),
        ):
            answer = await client.call(method, path, data=b"{not json")
            assert (answer.status, "must be JSON" in answer.text) == (400, True)

    with_platform(tmp_path, scenario)


def test_chunked_bodies_are_read_on_every_route(tmp_path):
    async def scenario(client):
        body = json.dumps({"service": "echo", "image": "echo:latest"}).encode()
        answer = await client.call("POST", "/system/functions", data=chunks(body[:9], body[9:]))
        assert answer.status == 202
        await client.platform.settled()
        answer = await client.call(
            "POST", "/system/scale-function/echo", data=chunks(b'{"replicas"', b": 2}")
        )
        assert answer.status == 202
        answer = await client.call("POST", "/function/echo/echo", data=chunks(b"in ", b"parts"))
        assert (answer.status, answer.text) == (200, "in parts")

    with_platform(tmp_path, scenario)


def test_scaling_up_and_down_is_reported_as_it_happens(tmp_path):
    async def scenario(client):
        await client.deploy()
        answer = await client.call("POST", "/system/scale-function/echo", json={"replicas": 3})
        assert answer.status == 202
        assert (await client.read())["replicas"] == 3
        await client.platform.settled()
        assert (await client.read())["availableReplicas"] == 3
        await client.call("POST", "/system/scale-function/echo.openfaas-fn", json={"replicas": 1})
        status = await client.read()
        assert (status["replicas"], status["availableReplicas"]) == (1, 1)
        (function,) = client.platform.registry
        await until(lambda: len(function.replicas) == 1)

    with_platform(tmp_path, scenario)


@pytest.mark.parametrize("replicas", [-1, "two"])
def test_scaling_to_what_is_no_count_is_400(tmp_path, replicas):
    async def scenario(client):
        await client.deploy()
        answer = await client.call("POST", "/system/scale-function/echo", json={"replicas": replicas})
        assert (answer.status, answer.text.count("\n")) == (400, 1)
        assert (await client.read())["replicas"] == 1

    with_platform(tmp_path, scenario)


def test_scaling_an_unknown_function_is_404(tmp_path):
    async def scenario(client):
        answer = await client.call("POST", "/system/scale-function/nope", json={"replicas": 1})
        assert answer.status == 404

    with_platform(tmp_path, scenario)


def test_a_cap_holds_and_can_be_read_back(tmp_path):
    async def scenario(client):
        await client.deploy()
        answer = await client.call("POST", "/system/scale-function/echo", json={"replicas": 9})
        assert answer.status == 202
        assert (await client.read())["replicas"] == 2

    with_platform(tmp_path, scenario, max_replicas=2)


def test_one_function_is_read_by_either_name_and_an_unknown_one_is_404(tmp_path):
    async def scenario(client):
        await client.deploy()
        for path in ("echo", "echo.openfaas-fn", "echo?namespace=openfaas-fn&usage=1"):
            answer = await client.call("GET", f"/system/function/{path}")
            assert (answer.status, answer.json()["name"]) == (200, "echo")
        for path in ("nope", "echo.other", "echo?namespace=other"):
            assert (await client.call("GET", f"/system/function/{path}")).status == 404

    with_platform(tmp_path, scenario)


def test_invocations_are_counted_per_function(tmp_path):
    async def scenario(client):
        await client.deploy()
        await client.call("GET", "/function/echo")
        await client.call("GET", "/function/echo.openfaas-fn/status?418")
        assert (await client.read())["invocationCount"] == 2

    with_platform(tmp_path, scenario)


def test_info_has_the_shape_that_its_reader_wants(tmp_path):
    async def scenario(client):
        for_cli = (await client.call("GET", "/system/info")).json()
        assert for_cli["provider"]["provider"] == "local-openfaas"
        assert for_cli["version"]["release"]
        gateway = {"X-Forwarded-Host": "gateway:8080"}
        for_gateway = (await client.call("GET", "/system/info", headers=gateway)).json()
        assert for_gateway["provider"] == "local-openfaas"
        assert for_gateway["orchestration"] == "processes"

    with_platform(tmp_path, scenario)


def test_namespaces_keep_functions_of_one_name_apart(tmp_path):
    async def scenario(client):
        await client.deploy(namespace="dev")
        assert (await client.call("GET", "/system/functions")).json() == []
        (function,) = (await client.call("GET", "/system/functions?namespace=dev")).json()
        assert function["namespace"] == "dev"
        assert (await client.call("GET", "/function/echo")).status == 404
        assert (await client.call("GET", "/function/echo.dev")).status == 200

    with_platform(tmp_path, scenario)


def test_secrets_are_kept_privately_listed_without_values_and_given_to_functions(tmp_path):
    async def scenario(client):
        call = client.call
        assert (await call("GET", "/system/secrets")).json() == []
        assert (await call("POST", "/system/secrets", json={"name": "token", "value": "abc"})).status == 202
        assert (await call("POST", "/system/secrets", json={"name": "token", "value": "x"})).status == 409
        raw = base64.b64encode(b"\x00\xff").decode()
        assert (await call("POST", "/system/secrets", json={"name": "key", "rawValue": raw})).status == 202
        listed = await call("GET", "/system/secrets?namespace=openfaas-fn")
        assert listed.json() == [
            {"name": "key", "namespace": "openfaas-fn"},
            {"name": "token", "namespace": "openfaas-fn"},
        ]
        kept = tmp_path / "run" / "secrets" / "openfaas-fn" / "token"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        await client.deploy(secrets=["key"])
        environ = (await call("GET", "/function/echo")).json()["environ"]
        mounted = tmp_path.__class__(environ["secret_mount_path"])
        assert {path.name: path.read_bytes() for path in mounted.iterdir()} == {"key": b"\x00\xff"}
        assert (await call("PUT", "/system/secrets", json={"name": "token", "value": "new"})).status == 202
        assert kept.read_text() == "new"
        assert (await call("DELETE", "/system/secrets", json={"name": "token"})).status == 202
        for method in ("PUT", "DELETE"):
            answer = await call(method, "/system/secrets", json={"name": "token", "value": "x"})
            assert answer.status == 404
        for body in ({"name": "../token", "value": "x"}, {"name": "token"}, {"name": "a", "rawValue": "?"}):
            assert (await call("POST", "/system/secrets", json=body)).status == 400

    with_platform(tmp_path, scenario)


def lines(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


def test_logs_are_ndjson_with_tail_since_and_instance(tmp_path):
    async def scenario(client):
        await client.deploy()
        for word in ("one", "two"):
            await client.call("GET", f"/function/echo/say?{word}")
        (function,) = client.platform.registry
        await until(lambda: len(function.log.lines()) == 3)
        answer = await client.call("GET", "/system/logs?name=echo&namespace=openfaas-fn")
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        assert [line["text"] for line in lines(answer)] == ["stand-in listens", "one", "two"]
        first = lines(answer)[0]
        assert (first["name"], first["namespace"], first["instance"]) == ("echo", "openfaas-fn", "echo-1")
        assert datetime.fromisoformat(first["timestamp"]).tzinfo is not None
        answer = await client.call("GET", "/system/logs?name=echo&tail=1")
        assert [line["text"] for line in lines(answer)] == ["two"]
        later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert lines(await client.call("GET", f"/system/logs?name=echo&since={later}")) == []
        assert lines(await client.call("GET", "/system/logs?name=echo&instance=echo-2")) == []
        written = tmp_path / "run" / "logs" / "echo.openfaas-fn" / "echo-1.log"
        assert written.read_text().splitlines()[-1].endswith(" two")

    with_platform(tmp_path, scenario)


@pytest.mark.parametrize(
    "query",
    ["", "name=", "name=echo&tail=many", "name=echo&since=yesterday", "name=echo&since=2026-01-01T00:00:00"],
)
def test_a_bad_log_query_is_422(tmp_path, query):
    async def scenario(client):
        await client.deploy(ready=False)
        assert (await client.call("GET", f"/system/logs?{query}")).status == 422
        assert (await client.call("GET", "/system/logs?name=nope")).status == 404

    with_platform(tmp_path, scenario)


def test_health_answers_get_and_head_and_telemetry_is_not_implemented(tmp_path):
    async def scenario(client):
        assert (await client.call("GET", "/healthz")).status == 200
        assert (await client.call("HEAD", "/healthz")).status == 200
        assert (await client.call("GET", "/system/telemetry")).status == 501
        assert (await client.call("POST", "/async-function/echo")).status == 404

    with_platform(tmp_path, scenario)


def test_discovery_lists_every_running_replica_in_prometheus_shape(tmp_path):
    async def scenario(client):
        assert (await client.call("GET", "/sd/replicas")).json() == []
        await client.deploy(labels={"com.openfaas.scale.min": "2"})
        answer = await client.call("GET", "/sd/replicas")
        assert answer.headers["Content-Type"].startswith("application/json")
        groups = answer.json()
        (function,) = client.platform.registry
        assert groups == [
            {
                "targets": [f"127.0.0.1:{replica.metrics_port}"],
                "labels": {"function_name": "echo.openfaas-fn", "replica": replica.name},
            }
            for replica in function.replicas
        ]
        assert [group["labels"]["replica"] for group in groups] == ["echo-1", "echo-2"]
        async with client.session.get(f"http://{groups[0]['targets'][0]}/metrics") as scraped:
            assert scraped.status == 200

    with_platform(tmp_path, scenario)


def test_an_unforeseen_error_is_a_500_and_the_platform_goes_on(tmp_path, monkeypatch):
    async def scenario(client):
        monkeypatch.setattr(Secrets, "names", lambda self, namespace: 1 / 0)
        answer = await client.call("GET", "/system/secrets")
        assert (answer.status, "ZeroDivisionError" in answer.text) == (500, False)
        assert (await client.call("GET", "/healthz")).status == 200

    with_platform(tmp_path, scenario)


def test_basic_auth_guards_the_system_routes_and_nothing_else(tmp_path):
    auth = tmp_path / "auth"
    auth.mkdir()
    (auth / "basic-auth-user").write_text("admin\n")
    (auth / "basic-auth-password").write_text("pass:word\n")

    async def run():
        async with platform_client(tmp_path, basic_auth_dir=auth) as client:

            def header(text):
                return {"Authorization": text}

            good = header("Basic " + base64.b64encode(b"admin:pass:word").decode())
            for bad in (
                {},
                header("Bearer "),
                header("Basic " + base64.b64encode(b"admin:wrong").decode()),
                header("Basic ???"),
            ):
                answer = await client.call("GET", "/system/functions", headers=bad)
                assert answer.status == 401
                assert answer.headers["WWW-Authenticate"] == 'Basic realm="Restricted"'
            assert (await client.call("GET", "/system/functions", headers=good)).status == 200
            for path in ("/healthz", "/metrics", "/sd/replicas"):
                assert (await client.call("GET", path)).status == 200
            client.defaults = {"headers": good}
            await client.deploy()
            client.defaults = {}
            assert (await client.call("GET", "/function/echo")).status == 200

    asyncio.run(run())


def test_without_auth_the_empty_bearer_token_of_faas_cli_is_ignored(tmp_path):
    async def scenario(client):
        answer = await client.call("GET", "/system/functions", headers={"Authorization": "Bearer "})
        assert answer.status == 200

    with_platform(tmp_path, scenario)
