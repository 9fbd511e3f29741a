"""Leaders by a Lease: on an API server over real sockets, well, refusing, frozen and back."""

import threading
import time
from contextlib import contextmanager

import pytest

from autoscaler import doubles
from autoscaler.doubles import free_port, until
from autoscaler.freezing_proxy import a_freezing_proxy
from autoscaler.kube_server import a_kube_server
from slo_autoscaler.kube.client import KubeApi
from slo_autoscaler.kube.lease import LeaseLeader, candidate, lease_timeout
from slo_autoscaler.kube.lease_rules import Settings as LeaseSettings

LEASE = ("coordination.k8s.io/v1", "leases", "ours", "slo-autoscaler")
QUICK = LeaseSettings(duration=1.0, renew_interval=0.1)
LASTING = LeaseSettings(duration=60.0, renew_interval=0.1)
"""Nobody loses it because the machine is busy."""


@pytest.fixture
def server():
    with a_kube_server() as double:
        yield double


@pytest.fixture
def lead(server, tmp_path):
    """Return a maker of leaders, each closed at the end; ``address`` is that of a proxy before the server."""
    made = []

    def make(identity, address=None, config=LASTING):
        api = KubeApi(
            server.kubeconfig(tmp_path, address), timeout=lease_timeout(config.duration), connections=1
        )
        leader = LeaseLeader(api, config, identity)
        made.append(leader)
        return leader

    yield make
    for leader in made:
        leader.close()


def spec(server):
    return server.get(*LEASE)["spec"]


def test_the_first_leads_at_once_and_the_second_waits(server, lead, caplog):
    caplog.set_level("INFO")
    first, second = lead("a"), lead("b")
    assert (first.leads(), second.leads()) == (True, False)
    assert spec(server)["holderIdentity"] == "a"
    assert spec(server)["leaseDurationSeconds"] == 60
    assert "leads, by the lease ours/slo-autoscaler" in caplog.text
    assert caplog.text.count("a holds the lease ours/slo-autoscaler: standing by") == 1


def test_the_lease_is_renewed_as_long_as_its_holder_lives(server, lead):
    leader = lead("a")
    acquired = spec(server)["acquireTime"]
    updates = "PUT /apis/coordination.k8s.io/v1/namespaces/ours/leases/slo-autoscaler"
    until(lambda: server.requests.count(updates) > 4, "it is renewed again and again")
    assert leader.leads()
    assert spec(server)["renewTime"] > acquired
    assert (spec(server)["acquireTime"], spec(server)["leaseTransitions"]) == (acquired, 0)


def test_one_that_is_closed_gives_the_lease_back_and_the_next_follows_without_waiting(server, lead):
    first, second = lead("a"), lead("b")
    first.close()
    assert not first.leads()
    # Much sooner than the lease would have run out.
    until(second.leads, "the second leads", 10.0)
    assert (spec(server)["holderIdentity"], spec(server)["leaseTransitions"]) == ("b", 1)


def test_one_that_does_not_lead_leaves_the_lease_alone_when_it_is_closed(server, lead):
    first, second = lead("a"), lead("b")
    second.close()
    assert spec(server)["holderIdentity"] == "a"
    assert first.leads()


def test_a_lease_that_its_holder_left_behind_is_taken_when_it_has_run_out(server, lead):
    server.put(
        *LEASE[:2],
        {
            "metadata": {"namespace": "ours", "name": "slo-autoscaler"},
            "spec": {"holderIdentity": "killed", "leaseDurationSeconds": 1},
        },
    )
    leader = lead("b", config=QUICK)
    assert not leader.leads()
    until(leader.leads, "the lease runs out")


def test_while_the_server_refuses_connections_the_leader_stops_and_goes_on_afterwards(server, lead, caplog):
    leader = lead("a", config=QUICK)
    for method in ("GET", "PUT"):
        server.faults[method] = doubles.panic
    until(lambda: not leader.leads(), "it stops by itself")
    assert "could not be renewed in time: no longer the leader" in caplog.text
    server.faults.clear()
    until(leader.leads, "it leads again")


def test_a_server_that_is_away_at_the_start_is_no_reason_to_end(server, lead):
    leader = lead("a", f"127.0.0.1:{free_port()}")
    assert not leader.leads()


def test_a_role_that_lacks_a_rule_is_named(server, lead, caplog):
    server.rules = [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]}]
    leader = lead("a")
    assert not leader.leads()
    assert "status 403 Forbidden: cannot create resource leases" in caplog.text


def test_a_lease_that_is_deleted_under_its_holder_is_created_anew(server, lead):
    leader = lead("a")
    server.remove(*LEASE)
    until(lambda: server.all(*LEASE[:2]), "there is a lease again")
    until(leader.leads, "it leads")


def test_of_many_that_begin_at_once_one_leads(server, lead):
    made = []
    threads = [threading.Thread(target=lambda name=str(i): made.append(lead(name))) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(leader.leads() for leader in made) == 1


@contextmanager
def watching(one, other):
    """Look at both all the time; give the times when both led at once.

    One is asked before and after the other: a pause between two looks must not pass for two leaders.
    """
    both, stop = [], threading.Event()

    def look():
        while not stop.wait(0.001):
            if one.leads() and other.leads() and one.leads():
                both.append(time.monotonic())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield both
    finally:
        stop.set()
        thread.join()


@pytest.mark.e2e
def test_with_the_leaders_network_frozen_there_are_never_two_and_the_other_follows(server, lead):
    with a_freezing_proxy(server.address) as proxy:
        first, second = lead("a", proxy.address, QUICK), lead("b", config=QUICK)
        with watching(first, second) as both:
            assert first.leads()
            proxy.freeze()
            until(second.leads, "the second leads")
            # What the first had sent is delivered now, too late.
            proxy.thaw()
            looks = len(server.requests)
            until(lambda: len(server.requests) > looks + 8, "both have looked again")
            assert (first.leads(), second.leads()) == (False, True)
        assert not both
        assert spec(server)["holderIdentity"] == "b"


def test_a_leader_is_made_from_its_settings(server, tmp_path):
    settings = LeaseSettings(name="mine", namespace="there")
    leader = candidate(settings, (str(server.kubeconfig(tmp_path)), None))
    assert leader.leads()
    assert server.get(*LEASE[:2], "there", "mine")["spec"]["holderIdentity"] == leader.identity
    leader.close()
    assert "holderIdentity" not in server.get(*LEASE[:2], "there", "mine")["spec"]
