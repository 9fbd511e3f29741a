from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.local.functions import _SURGE as SURGE
from tailbound_lab.local.functions import Plan, ReplicaView, plan


@st.composite
def situations(draw):
    generation = draw(st.integers(1, 4))
    replicas = [
        ReplicaView(f"r{number}", draw(st.integers(1, generation)), draw(st.booleans()))
        for number in range(draw(st.integers(0, 8)))
    ]
    return replicas, generation, draw(st.integers(0, 6))


def apply(replicas, generation, todo, count):
    kept = [replica for replica in replicas if replica.name not in todo.stop]
    new = [ReplicaView(f"n{count}-{number}", generation, ready=False) for number in range(todo.start)]
    return kept + new


@given(situation=situations(), choices=st.randoms(use_true_random=False))
def test_repeated_it_ends_with_the_wanted_replicas_of_the_newest_generation(situation, choices):
    replicas, generation, desired = situation
    for step in range(200):
        todo = plan(replicas, generation=generation, desired=desired)
        replicas = apply(replicas, generation, todo, step)
        if todo == Plan() and all(replica.ready for replica in replicas):
            break
        # Any one that is not ready becomes so: starts end in any order.
        waiting = [number for number, replica in enumerate(replicas) if not replica.ready]
        if waiting:
            number = choices.choice(waiting)
            replicas[number] = ReplicaView(replicas[number].name, replicas[number].generation, ready=True)
    assert [replica.generation for replica in replicas] == [generation] * desired


@given(situation=situations())
def test_a_rollout_never_takes_ready_replicas_below_the_count(situation):
    replicas, generation, desired = situation
    todo = plan(replicas, generation=generation, desired=desired)
    ready = sum(replica.ready for replica in replicas)
    left = sum(replica.ready for replica in replicas if replica.name not in todo.stop)
    assert left >= min(ready, desired)


@given(situation=situations())
def test_there_is_never_more_than_one_replica_too_many_started(situation):
    replicas, generation, desired = situation
    todo = plan(replicas, generation=generation, desired=desired)
    left = len(replicas) - len(todo.stop)
    assert todo.start == 0 or left + todo.start <= desired + SURGE
    assert len(set(todo.stop)) == len(todo.stop)


def test_what_is_wanted_already_needs_nothing():
    views = [ReplicaView("a", 1, True), ReplicaView("b", 1, False)]
    assert plan(views, generation=1, desired=2) == Plan()


def test_scaling_down_takes_what_is_not_ready_then_the_youngest():
    views = [ReplicaView("a", 1, False), ReplicaView("b", 1, True), ReplicaView("c", 1, True)]
    assert plan(views, generation=1, desired=2) == Plan(stop=("a",))
    assert plan(views, generation=1, desired=1) == Plan(stop=("c", "a"))


def test_an_update_starts_one_ahead_and_keeps_the_old_until_it_is_ready():
    old = [ReplicaView("a", 1, True), ReplicaView("b", 1, True)]
    assert plan(old, generation=2, desired=2) == Plan(start=1)
    assert plan([*old, ReplicaView("c", 2, False)], generation=2, desired=2) == Plan()
    assert plan([*old, ReplicaView("c", 2, True)], generation=2, desired=2) == Plan(start=1, stop=("a",))
