"""``/function/<name>``: what reaches a function, what comes back, which replica is chosen, and its faults."""

import asyncio
import io
import json
import os
import signal
import socket

import aiohttp
import pytest

from lab.local.harness import TWO, on_platform, until


async def raw(client, first: str, *headers: str, body: str = "") -> bytes:
    """Everything that the platform answers to a request as it is written here."""
    port = int(client.platform.gateway_url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{first} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *headers, "", body]
    writer.write("\r\n".join(lines).encode())
    try:
        return await reader.read()
    finally:
        writer.close()


def seen(answer: bytes):
    return json.loads(answer.partition(b"\r\n\r\n")[2])


@on_platform()
async def test_the_function_sees_method_body_and_its_own_path_as_sent(client):
    await client.deploy()
    for sent, target in (
        ("/function/echo", "/"),
        ("/function/echo?a=1", "/?a=1"),
        ("/function/echo.openfaas-fn/x/y?a=1&b=%20c", "/x/y?a=1&b=%20c"),
        ("/function/echo/a%2Fb//c?q=a/b", "/a%2Fb//c?q=a/b"),
    ):
        assert seen(await raw(client, f"GET {sent}", "Connection: close"))["target"] == target
    for method in ("POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"):
        found = (await client.call(method, "/function/echo", data=b"body")).json()
        assert (found["method"], found["body"]) == (method, "body")
    answer = await client.call("HEAD", "/function/echo")
    assert (answer.status, answer.body, int(answer.headers["Content-Length"]) > 0) == (200, b"", True)
    answer = await client.call("PROPFIND", "/function/echo")
    assert (answer.status, "POST" in answer.headers["Allow"]) == (405, True)
    answer = await client.call("POST", "/function/nope", data=b"x")
    assert (answer.status, answer.headers["X-OpenFaaS-Internal"]) == (404, "proxy")


@on_platform()
async def test_the_gateways_headers_are_stamped_on_unless_a_gateway_in_front_has(client):
    await client.deploy()
    answer = await client.call("POST", "/function/echo", data=b"x", headers={"Host": "example.com"})
    headers = answer.json()["headers"]
    assert headers["x-forwarded-host"] == "example.com"
    assert headers["x-forwarded-for"].startswith("127.0.0.1:")
    assert headers["x-call-id"] == answer.headers["X-Call-Id"]
    assert headers["x-start-time"] == answer.headers["X-Start-Time"]
    assert len(headers["x-start-time"]) == 19
    stamped = {
        "X-Call-Id": "id",
        "X-Start-Time": "1700000000000000000",
        "X-Forwarded-Host": "outer",
        "X-Forwarded-For": "10.0.0.1:9",
    }
    answer = await client.call("GET", "/function/echo", headers=stamped)
    assert {name: answer.json()["headers"][name.lower()] for name in stamped} == stamped
    assert not {"X-Call-Id", "X-Start-Time", "X-Served-By"} & set(answer.headers)


async def chunks(*parts: bytes):
    for part in parts:
        yield part


@on_platform()
async def test_bodies_statuses_and_headers_pass_as_they_are(client):
    await client.deploy()
    for status in (201, 301, 404, 429, 503):
        answer = await client.call("POST", f"/function/echo/status?{status}", data=b"")
        assert (answer.status, answer.text) == (status, "answer")
    large = os.urandom(3_000_000)
    for sent, body in (
        (b"\x00\xff", b"\x00\xff"),
        (chunks(b"in ", b"parts"), b"in parts"),
        (io.BytesIO(large), large),
    ):
        answer = await client.call("POST", "/function/echo/echo", data=sent)
        assert (answer.body, answer.headers["X-Own"]) == (body, "1")
    headers = ("Content-Encoding: gzip", "Expect: 100-continue", "Connection: close")
    answer = await raw(client, "POST /function/echo/echo", *headers, body="notgz")
    assert b"100 Continue" in answer
    assert answer.endswith(b"notgz")


@on_platform()
async def test_a_request_goes_to_the_replica_with_the_fewest_outstanding(client):
    await client.deploy(labels={"com.openfaas.scale.min": "3"})
    replicas = client.function.replicas
    names = [(await client.call("GET", "/function/echo")).json()["replica"] for _ in range(6)]
    assert sorted(names) == sorted(replica.name for replica in replicas * 2)  # equals take turns
    gate = client.folder / "gate"
    slow = [client.start(f"echo/wait?{gate}") for _ in range(2)]
    await until(lambda: sum(replica.outstanding for replica in replicas) == 2)
    (idle,) = [replica.name for replica in replicas if replica.outstanding == 0]
    assert {(await client.call("GET", "/function/echo")).json()["replica"] for _ in range(6)} == {idle}
    gate.touch()
    assert len({(await task).text for task in slow} | {idle}) == 3
    assert not any(replica.outstanding for replica in replicas)


@on_platform()
async def test_a_refused_connection_is_tried_on_another_replica_and_a_broken_one_is_not(client):
    await client.deploy(labels=TWO)
    answer = await client.call("POST", f"/function/echo/drop-first?{client.folder / 'dropped'}", data=b"x")
    assert (answer.status, answer.headers["X-OpenFaaS-Internal"]) == (502, "proxy")
    broken, good = client.function.replicas
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # As if it had died a moment ago and nobody had noticed: bound, but nobody listens.
        broken.port = unused.getsockname()[1]
        for _ in range(4):
            assert (await client.call("POST", "/function/echo", data=b"x")).json()["replica"] == good.name
        good.draining = True
        statuses = {await client.status("POST", "/function/echo") for _ in range(2)}
        good.draining = False
    assert 502 in statuses


@on_platform()
async def test_pieces_pass_as_they_come_where_accept_begins_with_event_stream(client):
    await client.deploy()
    gate = client.folder / "gate"
    url = f"{client.platform.gateway_url}/function/echo/pieces?{gate}"
    async with client.session.get(url, headers={"Accept": "text/event-stream, */*"}) as answer:
        assert await answer.content.readany() == b"first"
        gate.touch()
        assert await answer.content.read() == b"second"


@on_platform()
async def test_an_answer_that_breaks_off_has_no_clean_end(client):
    await client.deploy()
    url = f"{client.platform.gateway_url}/function/echo/pieces?/never"
    async with client.session.get(url, headers={"Accept": "text/event-stream"}) as answer:
        assert await answer.content.readany() == b"first"
        os.kill(client.function.replicas[0].pid, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await answer.content.read()


@on_platform()
async def test_a_client_that_goes_away_takes_its_request_along(client):
    await client.deploy()
    task = client.start("echo/wait?/never")
    await until(lambda: client.function.replicas[0].outstanding == 1)
    task.cancel()
    await until(lambda: client.function.replicas[0].outstanding == 0)


# Functions at zero, and requests that wait for a first replica.


async def at_zero(client, **env):
    """Deploy a function whose minimum is two, take it to zero, and return it once its processes are gone."""
    await client.deploy(labels=TWO)
    assert await client.scale(0) == 202
    await client.platform.settled()
    await client.deploy(method="PUT", labels=TWO, envVars=env)
    return client.function


@on_platform()
async def test_held_requests_wake_a_function_to_its_minimum_once_and_are_counted_as_they_come(client):
    async def exposed(sample):
        return sample in (await client.call("GET", "/metrics")).text

    gate = client.folder / "gate"
    function = await at_zero(client, ready_file=str(gate))
    assert (function.replicas, await client.read()) == ((), (0, 0))
    assert await exposed('gateway_service_count{function_name="echo.openfaas-fn"} 0.0')
    held = [client.start("echo") for _ in range(10)]
    await until(lambda: function.held == 10)
    assert await client.scale(0) == 202  # must not strand what is held
    assert function.desired == len(function.replicas) == 2
    assert await exposed('invocation_started{function_name="echo.openfaas-fn"} 10.0')
    gate.touch()
    assert {(await task).status for task in held} == {200}
    assert (function.held, [replica.starts for replica in function.replicas]) == (0, [1, 1])


@on_platform(hold_timeout=3600.0)
async def test_a_start_that_fails_again_and_again_answers_what_is_held_until_it_is_mended(client):
    function = await at_zero(client, crash_on_start="true")
    held = [client.start("echo") for _ in range(2)]
    assert {(await task).status for task in held} == {503}
    assert function.replicas[0].failed_starts >= 3
    assert await client.status("GET", "/function/echo") == 503  # it need not wait for the same
    await client.deploy(method="PUT", ready=False)
    assert await client.status("GET", "/function/echo") == 200
    assert function.failing is None


@on_platform(hold_timeout=3600.0)
async def test_a_held_request_goes_with_its_client_or_its_function(client):
    function = await at_zero(client, ready_file="/never")
    leaving, staying = client.start("echo"), client.start("echo")
    await until(lambda: function.held == 2)
    leaving.cancel()
    await until(lambda: function.held == 1)
    assert await client.status("DELETE", "/system/functions", {"functionName": "echo"}) == 202
    assert (await staying).status == 503
