from batching_watchdog.pool.crew import Crew, Fate


def crew_of(*workers: str, wanted: int, max_requests: int = 0) -> Crew[str]:
    crew: Crew[str] = Crew(wanted, max_requests)
    for worker in workers:
        crew.add(worker)
        crew.admit(worker, 0.0)
    return crew


def test_member_that_is_not_admitted_does_not_serve():
    crew = crew_of(wanted=1)
    crew.add("a")
    assert (crew.members, crew.serving) == (("a",), [])


def test_removed_worker_served_only_if_it_was_admitted():
    crew = crew_of("a", wanted=2)
    crew.add("b")
    assert [crew.remove(worker) for worker in ("a", "b", "a")] == [True, False, False]


def test_worker_admitted_beyond_the_number_wanted_is_removed():
    crew = crew_of("a", wanted=1)
    crew.add("b")
    assert not crew.admit("b", 0.0)
    assert crew.members == ("a",)


def test_worker_without_max_requests_never_ages():
    assert crew_of("a", wanted=1).served("a", 1 << 40, ages=True) is Fate.STAYS


def test_worker_ages_after_max_requests_and_the_share_drawn_for_it():
    crew: Crew[str] = Crew(1, 100)
    crew.add("a")
    crew.admit("a", 0.5)
    assert [crew.served("a", count, ages=True) for count in (104, 1)] == [Fate.STAYS, Fate.AGED]


def test_old_worker_serves_twice_as_long_while_another_is_replaced():
    crew = crew_of("a", wanted=2, max_requests=10)
    assert [crew.served("a", count, ages=True) for count in (19, 1)] == [Fate.STAYS, Fate.AGED]


def test_old_worker_stays_while_none_is_replaced_by_age():
    assert crew_of("a", wanted=1, max_requests=10).served("a", 50, ages=False) is Fate.STAYS


def test_surplus_worker_that_is_old_leaves_as_surplus():
    crew = crew_of("a", "b", wanted=2, max_requests=10)
    crew.wanted = 1
    assert crew.served("a", 50, ages=True) is Fate.SURPLUS
