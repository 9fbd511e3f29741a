from hypothesis import given
from hypothesis import strategies as st

from lab.local.harness import samples, with_platform
from tailbound_lab.local.metrics import GatewayMetrics


def test_the_exposed_names_and_labels_are_exactly_the_gateways(tmp_path):
    async def scenario(client):
        await client.deploy(labels={"com.openfaas.scale.min": "2"})
        await client.call("GET", "/function/echo")
        await client.call("GET", "/function/echo/status?503")
        answer = await client.call("GET", "/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        seen = {}
        for name, *labels in samples(answer.body):
            seen.setdefault(name, set()).add(tuple(key for key, _ in labels))
        assert seen == {
            "gateway_functions_seconds_bucket": {("code", "function_name", "le")},
            "gateway_functions_seconds_count": {("code", "function_name")},
            "gateway_functions_seconds_sum": {("code", "function_name")},
            "gateway_function_invocation_total": {("code", "function_name")},
            "gateway_function_invocation_started": {("function_name",)},
            "gateway_service_count": {("function_name",)},
        }
        values = samples(answer.body)
        name = ("function_name", "echo.openfaas-fn")
        assert values["gateway_function_invocation_total", ("code", "200"), name] == 1
        assert values["gateway_function_invocation_total", ("code", "503"), name] == 1
        assert values["gateway_function_invocation_started", name] == 2
        assert values["gateway_service_count", name] == 2

    with_platform(tmp_path, scenario)


@given(seconds=st.lists(st.floats(0, 20), min_size=1, max_size=30))
def test_buckets_count_what_is_not_longer_than_their_edge(seconds):
    metrics = GatewayMetrics(list)
    for value in seconds:
        metrics.started("f.ns")
        metrics.finished("f.ns", 200, value)
    values = samples(metrics.exposition())
    labels = (("code", "200"), ("function_name", "f.ns"))
    for edge in (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0):
        expected = sum(value <= edge for value in seconds)
        assert values["gateway_functions_seconds_bucket", *labels, ("le", str(edge))] == expected
    assert values["gateway_functions_seconds_bucket", *labels, ("le", "+Inf")] == len(seconds)
    assert values["gateway_functions_seconds_count", *labels] == len(seconds) == metrics.invocations("f.ns")
