"""Functions through updates, and the order in which their replicas stop."""

from lab.local.harness import TWO, on_platform


@on_platform()
async def test_an_update_keeps_the_count_and_answers_all_the_while(client):
    await client.deploy(labels=TWO, envVars={"version": "1"})
    assert await client.scale(1) == 202
    await client.deploy(method="PUT", ready=False, envVars={"version": "2"})
    answers = [await client.call("GET", "/function/echo") for _ in range(3)]
    assert {(answer.status, answer.json()["environ"]["version"]) for answer in answers} == {(200, "2")}
    await client.platform.settled()
    assert await client.read() == (1, 1)


@on_platform()
async def test_scale_down_stops_replicas_that_are_not_ready_then_the_youngest(client):
    await client.deploy(labels={"com.openfaas.scale.min": "3"})
    first, second, third = client.function.replicas
    first.ready = False  # as after three failed probes
    client.function.scale(2)
    assert [replica.draining for replica in (first, second, third)] == [True, False, False]
    client.function.scale(1)
    assert [replica.draining for replica in (first, second, third)] == [True, False, True]
