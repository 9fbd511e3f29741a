"""The provider contract, route by route, over real sockets."""

from datetime import datetime

from prometheus_client.parser import text_string_to_metric_families

from lab.local.harness import TWO, on_platform, until

ECHO = {"service": "echo", "image": "echo:latest"}
GONE = {"functionName": "echo", "namespace": ""}
FUNCTIONS = "/system/functions"
NAME = ("function_name", "echo.openfaas-fn")


def samples(exposition):
    """The values of an exposition by name and (label, value) pairs."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


@on_platform()
async def test_a_function_is_created_read_updated_and_removed_with_the_statuses_that_faas_cli_wants(client):
    assert (await client.call("GET", FUNCTIONS)).json() == []  # not null
    for headers, key in (({}, "provider"), ({"X-Forwarded-Host": "gateway:8080"}, "orchestration")):
        assert key in (await client.call("GET", "/system/info", headers=headers)).json()
    for method, body, status in (
        ("DELETE", GONE, 404),
        ("PUT", ECHO, 404),  # so that faas-cli creates it
        ("POST", ECHO, 202),
        ("PUT", ECHO, 202),
    ):
        assert await client.status(method, FUNCTIONS, body) == status
    asked = {
        "labels": TWO | {"team": "ml"},
        "annotations": {"a.b/c": "d"},
        "envVars": {"slo_latency": "50ms"},
    }
    await client.deploy(method="PUT", constraints=None, secrets=[], envProcess="", **asked)
    (listed,) = (await client.call("GET", f"{FUNCTIONS}?namespace=openfaas-fn")).json()
    counts = {"replicas": 1, "availableReplicas": 1}  # an update keeps the count
    assert listed.items() >= {"name": "echo", "namespace": "openfaas-fn", **asked, **counts}.items()
    assert datetime.fromisoformat(listed["createdAt"]).tzinfo is not None
    await client.call("GET", "/function/echo")
    for path in ("echo", "echo.openfaas-fn", "echo?namespace=openfaas-fn&usage=1"):
        answer = await client.call("GET", f"/system/function/{path}")
        assert (answer.json()["name"], answer.json()["invocationCount"]) == ("echo", 1)
    for path in ("nope", "echo.other", "echo?namespace=other"):
        assert await client.status("GET", f"/system/function/{path}") == 404
    function = client.function
    assert await client.status("DELETE", FUNCTIONS, GONE) == 202
    assert (await client.call("GET", FUNCTIONS)).json() == []
    assert await client.status("GET", "/function/echo") == 404
    await until(lambda: not function.replicas)
    await client.deploy()  # the name is free again


@on_platform()
async def test_scaling_is_reported_as_it_happens(client):
    assert await client.scale(1) == 404
    await client.deploy()
    assert await client.scale(3) == 202
    assert (await client.read())[0] == 3
    await client.platform.settled()
    assert await client.read() == (3, 3)
    assert (await client.call("GET", "/sd/replicas")).json() == [
        {
            "targets": [f"127.0.0.1:{replica.metrics_port}"],
            "labels": {"function_name": "echo.openfaas-fn", "replica": name},
        }
        for replica, name in zip(client.function.replicas, ("echo-1", "echo-2", "echo-3"), strict=True)
    ]
    assert await client.scale(1) == 202
    assert await client.read() == (1, 1)
    await until(lambda: len(client.function.replicas) == 1)


@on_platform()
async def test_the_metrics_have_the_gateways_names_and_labels(client):
    await client.deploy(labels=TWO)
    await client.call("GET", "/function/echo")
    await client.call("GET", "/function/echo/status?503")
    values = samples((await client.call("GET", "/metrics")).body)
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
