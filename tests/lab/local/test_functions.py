"""The rollout's rules, and functions through updates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.local.harness import TWO, on_platform, until
from tailbound_lab.local.errors import StartError
from tailbound_lab.local.functions import Images, Plan, ReplicaView, plan


@st.composite
def situations(draw):
    generation = draw(st.integers(1, 4))
    replicas = [
        ReplicaView(f"r{number}", draw(st.integers(1, generation)), draw(st.booleans()))
        for number in range(draw(st.integers(0, 8)))
    ]
    return replicas, generation, draw(st.integers(0, 6))


@given(situation=situations(), choices=st.randoms(use_true_random=False))
def test_a_plan_repeated_ends_with_the_wanted_replicas_of_the_newest_generation(situation, choices):
    replicas, generation, desired = situation
    for step in range(200):
        todo = plan(replicas, generation=generation, desired=desired)
        replicas = [replica for replica in replicas if replica.name not in todo.stop]
        replicas += [
            ReplicaView(f"n{step}-{number}", generation, ready=False) for number in range(todo.start)
        ]
        if todo == Plan() and all(replica.ready for replica in replicas):
            break
        # Any one that is not ready becomes so: starts end in any order.
        waiting = [number for number, replica in enumerate(replicas) if not replica.ready]
        if waiting:
            number = choices.choice(waiting)
            replicas[number] = ReplicaView(replicas[number].name, replicas[number].generation, ready=True)
    assert [replica.generation for replica in replicas] == [generation] * desired


@given(situation=situations())
def test_a_plan_keeps_the_ready_and_starts_at_most_one_too_many(situation):
    replicas, generation, desired = situation
    todo = plan(replicas, generation=generation, desired=desired)
    left = [replica for replica in replicas if replica.name not in todo.stop]
    assert sum(item.ready for item in left) >= min(sum(item.ready for item in replicas), desired)
    assert todo.start == 0 or len(left) + todo.start <= desired + 1
    assert len(set(todo.stop)) == len(todo.stop)


OLD, OLDER, NEW, STARTING = (
    ReplicaView("old", 1, True),
    ReplicaView("older", 1, True),
    ReplicaView("new", 2, True),
    ReplicaView("starting", 2, False),
)


@pytest.mark.parametrize(
    ("replicas", "generation", "desired", "expected"),
    [
        ([OLDER, OLD], 1, 2, Plan()),
        ([OLDER, OLD], 1, 1, Plan(stop=("old",))),  # the youngest: it has learned least
        ([STARTING, NEW], 2, 1, Plan(stop=("starting",))),  # what is not ready goes first
        ([OLDER, OLD], 2, 2, Plan(start=1)),
        ([OLDER, OLD, STARTING], 2, 2, Plan()),
        ([OLDER, OLD, NEW], 2, 2, Plan(start=1, stop=("older",))),
    ],
)
def test_the_next_step_of_a_rollout(replicas, generation, desired, expected):
    assert plan(replicas, generation=generation, desired=desired) == expected


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


def test_an_image_is_the_folder_of_one_handler(tmp_path):
    images = Images()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "handler.py").touch()
    images.add("i", tmp_path / "a")
    images.add("i", tmp_path / "a")
    for wrong in ("b", ".", "missing"):
        with pytest.raises(StartError):
            images.add("i", tmp_path / wrong)
    assert images.items() == {"i": tmp_path / "a"}
