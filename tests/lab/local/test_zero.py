"""Functions at zero replicas: how they get there, and what a request for one of them meets."""

import asyncio

import pytest

from lab.local.harness import samples, until, with_platform
from tailbound_lab.local.functions import FAILED_STARTS

NAME = ("function_name", "echo.openfaas-fn")


async def at_zero(client, **body):
    """Deploy a function, take it to zero, and return it once its last process has gone."""
    await client.deploy(**body)
    (function,) = client.platform.registry
    answer = await client.call("POST", "/system/scale-function/echo", json={"replicas": 0})
    assert answer.status == 202
    await client.platform.settled()
    return function


async def update(client, **env):
    body = {"service": "echo", "image": client.image, "envVars": env}
    assert (await client.call("PUT", "/system/functions", json=body)).status == 202


async def metrics(client):
    return samples((await client.call("GET", "/metrics")).body)


def test_a_function_at_zero_has_no_replica_and_every_face_says_so(tmp_path):
    async def scenario(client):
        function = await at_zero(client)
        assert function.replicas == ()
        status = await client.read()
        assert (status["replicas"], status["availableReplicas"]) == (0, 0)
        assert (await metrics(client))["gateway_service_count", NAME] == 0
        assert (await client.call("GET", "/sd/replicas")).json() == []

    with_platform(tmp_path, scenario)


def test_a_request_for_a_function_at_zero_is_held_while_one_replica_starts(tmp_path):
    async def scenario(client):
        function = await at_zero(client)
        answer = await client.call("POST", "/function/echo", data=b"body")
        assert (answer.status, answer.json()["body"]) == (200, "body")
        assert (function.desired, function.available, function.held) == (1, 1, 0)

    with_platform(tmp_path, scenario)


def test_many_held_requests_start_one_replica_and_all_are_served_by_it(tmp_path):
    async def scenario(client):
        function = await at_zero(client, envVars={"ready_delay": "0.3"})
        held = [asyncio.create_task(client.call("GET", "/function/echo")) for _ in range(10)]
        await until(lambda: function.held == 10)
        assert function.desired == len(function.replicas) == 1
        answers = [await task for task in held]
        assert {answer.status for answer in answers} == {200}
        assert len({answer.json()["pid"] for answer in answers}) == 1
        assert function.replicas[0].starts == 1

    with_platform(tmp_path, scenario)


def test_held_requests_are_counted_as_started_when_they_come_in(tmp_path):
    async def scenario(client):
        function = await at_zero(client, envVars={"ready_delay": "0.3"})
        held = [asyncio.create_task(client.call("GET", "/function/echo")) for _ in range(3)]
        await until(lambda: function.held == 3)
        values = await metrics(client)
        assert values["gateway_function_invocation_started", NAME] == 3
        assert ("gateway_function_invocation_total", ("code", "200"), NAME) not in values
        await asyncio.gather(*held)
        values = await metrics(client)
        assert values["gateway_function_invocation_started", NAME] == 3
        assert values["gateway_function_invocation_total", ("code", "200"), NAME] == 3

    with_platform(tmp_path, scenario)


def test_a_function_wakes_to_its_minimum(tmp_path):
    async def scenario(client):
        function = await at_zero(client, labels={"com.openfaas.scale.min": "2"})
        assert (await client.call("GET", "/function/echo")).status == 200
        await client.platform.settled()
        assert function.available == 2

    with_platform(tmp_path, scenario)


def test_a_function_wakes_to_no_more_than_the_cap(tmp_path):
    async def scenario(client):
        function = await at_zero(client, labels={"com.openfaas.scale.min": "2"})
        assert (await client.call("GET", "/function/echo")).status == 200
        assert function.desired == 1

    with_platform(tmp_path, scenario, max_replicas=1)


def test_a_start_that_fails_again_and_again_answers_the_held_requests_before_the_limit(tmp_path):
    async def scenario(client):
        function = await at_zero(client)
        await update(client, crash_on_start="true")
        held = [asyncio.create_task(client.call("GET", "/function/echo")) for _ in range(2)]
        answers = [await task for task in held]
        assert {answer.status for answer in answers} == {503}
        assert all("echo-1 ended 3 times in a row before it was ready" in answer.text for answer in answers)
        # The next one need not wait for the same.
        assert (await client.call("GET", "/function/echo")).status == 503
        assert function.replicas[0].failed_starts >= FAILED_STARTS
        values = await metrics(client)
        assert values["gateway_function_invocation_total", ("code", "503"), NAME] == 3

    with_platform(tmp_path, scenario, hold_timeout=3600.0)


def test_a_function_that_could_not_start_is_served_again_once_it_is_mended(tmp_path):
    async def scenario(client):
        function = await at_zero(client)
        await update(client, crash_on_start="true")
        assert (await client.call("GET", "/function/echo")).status == 503
        await update(client)
        assert (await client.call("GET", "/function/echo")).status == 200
        assert function.failing is None

    with_platform(tmp_path, scenario)


def test_a_start_that_takes_too_long_is_a_503_that_says_so(tmp_path):
    async def scenario(client):
        await at_zero(client)
        await update(client, never_ready="true")
        answer = await client.call("GET", "/function/echo")
        assert (answer.status, answer.headers["X-OpenFaaS-Internal"]) == (503, "proxy")
        assert "none became ready within 0.2 s" in answer.text

    with_platform(tmp_path, scenario, hold_timeout=0.2)


def test_a_held_request_whose_client_goes_away_is_dropped(tmp_path):
    async def scenario(client):
        function = await at_zero(client)
        await update(client, never_ready="true")
        task = asyncio.create_task(client.call("GET", "/function/echo"))
        await until(lambda: function.held == 1)
        task.cancel()
        await until(lambda: function.held == 0)

    with_platform(tmp_path, scenario)


def test_zero_does_not_strand_requests_that_are_held(tmp_path):
    async def scenario(client):
        function = await at_zero(client, envVars={"ready_delay": "0.3"})
        task = asyncio.create_task(client.call("GET", "/function/echo"))
        await until(lambda: function.held == 1)
        answer = await client.call("POST", "/system/scale-function/echo", json={"replicas": 0})
        assert (answer.status, (await client.read())["replicas"]) == (202, 1)
        assert (await task).status == 200

    with_platform(tmp_path, scenario)


def test_a_removed_function_answers_what_it_held(tmp_path):
    async def scenario(client):
        function = await at_zero(client)
        await update(client, never_ready="true")
        task = asyncio.create_task(client.call("GET", "/function/echo"))
        await until(lambda: function.held == 1)
        await client.call("DELETE", "/system/functions", json={"functionName": "echo"})
        answer = await task
        assert (answer.status, "removed" in answer.text) == (503, True)

    with_platform(tmp_path, scenario)


def test_on_the_way_to_zero_requests_in_flight_are_finished_and_new_ones_wake_it(tmp_path):
    async def scenario(client):
        await client.deploy(envVars={"ignore_sigterm": "true"})
        (function,) = client.platform.registry
        (leaving,) = function.replicas
        slow = asyncio.create_task(client.call("GET", "/function/echo/sleep?0.6"))
        await until(lambda: leaving.outstanding == 1)
        await client.call("POST", "/system/scale-function/echo", json={"replicas": 0})
        answer = await client.call("GET", "/function/echo")
        assert (answer.status, answer.json()["replica"]) == (200, "echo-2")
        slow_answer = await slow
        assert (slow_answer.status, slow_answer.text) == (200, "echo-1")

    with_platform(tmp_path, scenario, stop_grace=0.1)


@pytest.mark.parametrize("replicas", [0, 2])
def test_a_change_of_the_count_is_a_line_in_the_functions_log(tmp_path, replicas):
    async def scenario(client):
        await client.deploy()
        (function,) = client.platform.registry
        for _ in range(2):
            await client.call("POST", "/system/scale-function/echo", json={"replicas": replicas})
        texts = [line.text for line in function.log.lines(instance="echo")]
        assert texts == [f"replicas: 1 -> {replicas}"]
        if replicas == 0:
            await client.call("GET", "/function/echo")
            assert function.log.lines(instance="echo")[-1].text == ("replicas: 0 -> 1: requests are held")

    with_platform(tmp_path, scenario)
