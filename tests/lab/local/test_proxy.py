"""``/function/<name>``: what reaches a function, what comes back, and which replica is chosen."""

import asyncio
import io
import json
import os
import signal
import socket

import aiohttp
import pytest

from lab.local.harness import until, with_platform


async def raw(client, request: bytes) -> bytes:
    """Everything that the platform answers to ``request`` until it closes."""
    port = int(client.platform.gateway_url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


def test_the_function_sees_its_own_path_and_the_query_as_sent(tmp_path):
    async def scenario(client):
        await client.deploy()
        for sent, seen in (
            ("/function/echo", "/"),
            ("/function/echo/", "/"),
            ("/function/echo?a=1", "/?a=1"),
            ("/function/echo.openfaas-fn/x/y?a=1&b=%20c", "/x/y?a=1&b=%20c"),
            ("/function/echo/a%2Fb//c?q=a/b", "/a%2Fb//c?q=a/b"),
        ):
            answer = await raw(
                client, f"GET {sent} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
            )
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["target"] == seen

    with_platform(tmp_path, scenario)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"])
def test_a_method_of_the_contract_reaches_the_function(tmp_path, method):
    async def scenario(client):
        await client.deploy()
        answer = await client.call(method, "/function/echo", data=b"body")
        assert (answer.json()["method"], answer.json()["body"]) == (method, "body")

    with_platform(tmp_path, scenario)


def test_head_is_relayed_with_the_length_and_another_method_is_405(tmp_path):
    async def scenario(client):
        await client.deploy()
        answer = await client.call("HEAD", "/function/echo")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 0
        assert (await client.call("PROPFIND", "/function/echo")).status == 405

    with_platform(tmp_path, scenario)


def test_the_gateways_headers_are_stamped_on(tmp_path):
    async def scenario(client):
        await client.deploy()
        answer = await client.call("POST", "/function/echo", data=b"x", headers={"Host": "example.com"})
        seen = answer.json()["headers"]
        assert seen["x-forwarded-host"] == "example.com"
        assert seen["x-forwarded-for"].startswith("127.0.0.1:")
        assert seen["x-call-id"] == answer.headers["X-Call-Id"]
        assert seen["x-start-time"] == answer.headers["X-Start-Time"]
        assert len(seen["x-start-time"]) == 19
        assert answer.headers["X-Served-By"].startswith("local-openfaas/")

    with_platform(tmp_path, scenario)


def test_what_a_gateway_in_front_has_stamped_is_kept(tmp_path):
    async def scenario(client):
        await client.deploy()
        stamped = {
            "X-Call-Id": "id",
            "X-Start-Time": "1700000000000000000",
            "X-Forwarded-Host": "outer",
            "X-Forwarded-For": "10.0.0.1:9",
        }
        answer = await client.call("GET", "/function/echo", headers=stamped)
        seen = answer.json()["headers"]
        assert {name: seen[name.lower()] for name in stamped} == stamped
        # What goes on the answer is that gateway's too.
        assert not {"X-Call-Id", "X-Start-Time", "X-Served-By"} & set(answer.headers)

    with_platform(tmp_path, scenario)


def test_hop_by_hop_headers_stop_here_in_both_directions(tmp_path):
    async def scenario(client):
        await client.deploy()
        request = (
            b"POST /function/echo HTTP/1.1\r\nHost: h\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\n"
            b"TE: trailers\r\n"
            b"Proxy-Authorization: secret\r\nUpgrade: h2c\r\nX-Yours: 2\r\nX-Yours: 3\r\n"
            b"Content-Length: 2\r\n\r\nhi"
        )
        seen = json.loads((await raw(client, request)).partition(b"\r\n\r\n")[2])["headers"]
        assert not {"x-mine", "te", "proxy-authorization", "upgrade"} & set(seen)
        assert seen["x-yours"] == "3"
        assert seen["content-length"] == "2"
        answer = await client.call("GET", "/function/echo/status?200")
        assert "X-Private" not in answer.headers

    with_platform(tmp_path, scenario)


def test_statuses_and_headers_of_the_function_are_its_own(tmp_path):
    async def scenario(client):
        await client.deploy()
        for status in (201, 301, 404, 418, 429, 500, 503):
            answer = await client.call("POST", f"/function/echo/status?{status}", data=b"")
            assert (answer.status, answer.text) == (status, "answer")
        answer = await client.call("POST", "/function/echo/echo", data=b"\x00\xff")
        assert answer.headers["X-Duration-Seconds"] == "0.001000"
        assert answer.body == b"\x00\xff"

    with_platform(tmp_path, scenario)


def test_large_bodies_pass_both_ways_whole(tmp_path):
    async def scenario(client):
        await client.deploy()
        body = os.urandom(3_000_000)
        answer = await client.call("POST", "/function/echo/echo", data=io.BytesIO(body))
        assert answer.body == body

    with_platform(tmp_path, scenario)


def test_a_stream_arrives_while_it_is_made(tmp_path):
    async def scenario(client):
        await client.deploy()
        async with client.session.get(client.platform.gateway_url + "/function/echo/stream") as answer:
            assert answer.headers["Transfer-Encoding"] == "chunked"
            assert [part async for part in answer.content.iter_any()] == [b"one", b"two"]

    with_platform(tmp_path, scenario)


def test_an_answer_that_breaks_off_does_not_look_complete(tmp_path):
    async def scenario(client):
        await client.deploy()
        with pytest.raises(aiohttp.ClientError):
            await client.call("GET", "/function/echo/broken")

    with_platform(tmp_path, scenario)


def test_an_encoded_body_is_not_touched(tmp_path):
    async def scenario(client):
        await client.deploy()
        answer = await raw(
            client,
            b"POST /function/echo/echo HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n"
            b"Connection: close\r\n\r\nnotgz",
        )
        assert answer.endswith(b"notgz")

    with_platform(tmp_path, scenario)


def test_expect_100_continue_is_answered(tmp_path):
    async def scenario(client):
        await client.deploy()
        async with client.session.post(
            client.platform.gateway_url + "/function/echo/echo", data=b"body", expect100=True
        ) as answer:
            assert await answer.read() == b"body"

    with_platform(tmp_path, scenario)


def test_an_unknown_function_is_404(tmp_path):
    async def scenario(client):
        answer = await client.call("POST", "/function/nope", data=b"x")
        assert answer.status == 404
        assert answer.headers["X-OpenFaaS-Internal"] == "proxy"

    with_platform(tmp_path, scenario)


def test_requests_go_to_the_replica_with_the_fewest_outstanding(tmp_path):
    async def scenario(client):
        await client.deploy(labels={"com.openfaas.scale.min": "3"})
        (function,) = client.platform.registry
        slow = [asyncio.create_task(client.call("GET", "/function/echo/sleep?1")) for _ in range(2)]
        await until(lambda: sum(replica.outstanding for replica in function.replicas) == 2)
        (free,) = [replica.name for replica in function.replicas if replica.outstanding == 0]
        quick = {(await client.call("GET", "/function/echo")).json()["replica"] for _ in range(6)}
        assert quick == {free}
        assert len({(await task).text for task in slow} | {free}) == 3
        assert all(replica.outstanding == 0 for replica in function.replicas)

    with_platform(tmp_path, scenario)


def test_equally_loaded_replicas_take_turns(tmp_path):
    async def scenario(client):
        await client.deploy(labels={"com.openfaas.scale.min": "3"})
        names = [(await client.call("GET", "/function/echo")).json()["replica"] for _ in range(6)]
        assert sorted(names) == sorted(["echo-1", "echo-2", "echo-3"] * 2)

    with_platform(tmp_path, scenario)


def test_a_request_is_held_until_a_first_replica_is_ready(tmp_path):
    async def scenario(client):
        await client.deploy(ready=False, envVars={"ready_delay": "0.3"})
        answer = await client.call("GET", "/function/echo")
        assert answer.status == 200

    with_platform(tmp_path, scenario)


def test_a_held_request_becomes_a_503_that_names_the_function(tmp_path):
    async def scenario(client):
        await client.deploy(ready=False, envVars={"never_ready": "true"})
        answer = await client.call("GET", "/function/echo")
        assert (answer.status, "echo.openfaas-fn" in answer.text) == (503, True)

    with_platform(tmp_path, scenario, hold_timeout=0.05)


def test_a_replica_that_drains_gets_nothing_new_and_finishes_what_it_has(tmp_path):
    async def scenario(client):
        await client.deploy(labels={"com.openfaas.scale.min": "2"}, envVars={"ignore_sigterm": "true"})
        (function,) = client.platform.registry
        slow = [asyncio.create_task(client.call("GET", "/function/echo/sleep?0.4")) for _ in range(2)]
        await until(lambda: all(replica.outstanding == 1 for replica in function.replicas))
        await client.call("POST", "/system/scale-function/echo", json={"replicas": 1})
        names = {(await client.call("GET", "/function/echo")).json()["replica"] for _ in range(4)}
        assert len(names) == 1
        assert {(await task).status for task in slow} == {200}

    with_platform(tmp_path, scenario)


def test_a_connection_that_breaks_under_a_request_is_502_and_not_tried_again(tmp_path):
    async def scenario(client):
        await client.deploy(labels={"com.openfaas.scale.min": "2"})
        answer = await client.call("POST", "/function/echo/drop", data=b"x")
        assert answer.status == 502
        assert answer.headers["X-OpenFaaS-Internal"] == "proxy"
        assert "broke before it answered" in answer.text

    with_platform(tmp_path, scenario)


def test_a_refused_connection_is_tried_on_another_replica(tmp_path):
    async def scenario(client):
        await client.deploy(labels={"com.openfaas.scale.min": "2"})
        (function,) = client.platform.registry
        broken, good = function.replicas
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            # As if it had died a moment ago and nobody had noticed: bound, but nobody listens.
            broken.port = unused.getsockname()[1]
            names = [
                (await client.call("POST", "/function/echo", data=b"x")).json()["replica"] for _ in range(4)
            ]
        assert names == [good.name] * 4

    with_platform(tmp_path, scenario)


def test_a_killed_replica_costs_only_its_own_requests_and_is_started_again(tmp_path):
    async def scenario(client):
        await client.deploy(labels={"com.openfaas.scale.min": "2"})
        (function,) = client.platform.registry
        slow = [
            asyncio.create_task(client.call("POST", "/function/echo/sleep?0.4", data=b"x")) for _ in range(2)
        ]
        await until(lambda: all(replica.outstanding == 1 for replica in function.replicas))
        victim = function.replicas[0]
        os.kill(victim.pid, signal.SIGKILL)
        assert sorted([(await task).status for task in slow]) == [200, 502]
        assert (await client.call("GET", "/function/echo")).status == 200
        await client.platform.settled()
        assert (victim.starts, function.available) == (2, 2)

    with_platform(tmp_path, scenario)


def test_a_client_that_goes_away_takes_its_request_along(tmp_path):
    async def scenario(client):
        await client.deploy()
        (function,) = client.platform.registry
        task = asyncio.create_task(client.call("GET", "/function/echo/sleep?10"))
        await until(lambda: function.replicas[0].outstanding == 1)
        task.cancel()
        await until(lambda: function.replicas[0].outstanding == 0)

    with_platform(tmp_path, scenario)
