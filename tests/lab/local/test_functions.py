"""The rollout's rules, and functions through updates."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lab.local.harness import TWO, on_platform, until
from tailbound_lab.local.functions import Plan, ReplicaView, plan

situations = st.tuples(
    st.lists(st.builds(ReplicaView, st.uuids().map(str), st.integers(1, 3), st.booleans()), max_size=8),
    st.integers(0, 6),
)


@given(situation=situations, choices=st.randoms(use_true_random=False))
def test_a_plan_keeps_the_ready_surges_by_one_and_ends_with_the_wanted_replicas(situation, choices):
    replicas, desired = situation
    for step in range(200):
        todo = plan(replicas, generation=3, desired=desired)
        left = [item for item in replicas if item.name not in todo.stop]
        assert sum(item.ready for item in left) >= min(sum(item.ready for item in replicas), desired)
        assert todo.start == 0 or len(left) + todo.start <= desired + 1
        assert len(set(todo.stop)) == len(todo.stop)
        replicas = left + [ReplicaView(f"{step}-{number}", 3, ready=False) for number in range(todo.start)]
        # Any one that is not ready becomes so: starts end in any order.
        waiting = [number for number, item in enumerate(replicas) if not item.ready]
        if waiting:
            number = choices.choice(waiting)
            replicas[number] = replace(replicas[number], ready=True)
        elif todo == Plan():
            break
    assert [item.generation for item in replicas] == [3] * desired


@on_platform()
async def test_an_update_keeps_the_count_and_answers_all_the_while(client):
    await client.deploy(labels=TWO, envVars={"version": "1"})
    assert await client.scale(1) == 202
    await client.deploy(method="PUT", ready=False, envVars={"version": "2"})
    version = "1"
    while version != "2" or await client.read() != (1, 1) or len(client.function.replicas) > 1:
        answer = await client.call("GET", "/function/echo")
        assert answer.status == 200
        version = answer.json()["environ"]["version"]


@on_platform()
async def test_a_broken_update_leaves_the_old_replicas_serving(client):
    await client.deploy()
    await client.deploy(method="PUT", ready=False, envVars={"crash_on_start": "true"})
    await until(lambda: any(replica.starts > 1 for replica in client.function.replicas))
    assert await client.status("GET", "/function/echo") == 200
