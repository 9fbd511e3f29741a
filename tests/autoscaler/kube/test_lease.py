"""Leaders by a Lease over real sockets, on servers that are well, refusing, frozen and back."""

import threading
import time
from contextlib import contextmanager

import pytest

from autoscaler import doubles
from autoscaler.doubles import free_port, until
from autoscaler.kube.control_plane import on_double
from autoscaler.kube.freezing_proxy import a_freezing_proxy
from slo_autoscaler.errors import NotFoundError
from slo_autoscaler.kube.lease import LEASES, LeaseLeader
from slo_autoscaler.kube.lease_rules import Settings as LeaseSettings

BRIEF = {"duration": 3.0, "renew_interval": 0.2}
LASTING = {"duration": 60.0, "renew_interval": 0.1}
"""It is not lost because the machine is busy."""


@pytest.fixture
def lead(api, namespace, tmp_path):
    """Make leaders, each closed at the end; ``address`` is that of a proxy before the server."""
    made = []

    def make(identity, address=None, *, token=None, **settings):
        config = LeaseSettings(namespace=namespace, **(settings or LASTING))
        kubeconfig = api.kubeconfig(tmp_path, address, token)
        leader = LeaseLeader(config, (kubeconfig, None), identity)
        made.append(leader)
        return leader

    yield make
    for leader in made:
        leader.close()


@pytest.fixture
def spec(cluster, namespace):
    """Read the Lease's spec; None: there is no Lease."""

    def spec(name="slo-autoscaler"):
        try:
            return cluster.get(LEASES.path(namespace, name))["spec"]
        except NotFoundError:
            return None

    return spec


def test_the_first_leads_at_once_and_the_second_stands_by(lead, spec, namespace, caplog):
    caplog.set_level("INFO")
    first, second = lead("a"), lead("b")
    assert (first.leads(), second.leads()) == (True, False)
    assert (spec()["holderIdentity"], spec()["leaseDurationSeconds"]) == ("a", 60)
    assert f"is leader, by the lease {namespace}/slo-autoscaler" in caplog.text
    assert caplog.text.count(f"a holds the lease {namespace}/slo-autoscaler: standing by") == 1
    second.close()
    assert first.leads(), "its lease is left alone"


def test_the_lease_is_renewed_as_long_as_its_holder_lives(lead, spec):
    leader = lead("a")
    acquired = renewed = spec()["acquireTime"]
    for _ in range(3):
        until(lambda before=renewed: spec()["renewTime"] > before, "it is renewed")
        renewed = spec()["renewTime"]
    assert leader.leads()
    assert (spec()["acquireTime"], spec()["leaseTransitions"]) == (acquired, 0)


def test_a_lease_that_is_given_back_moves_at_once(lead, spec):
    first, second = lead("a"), lead("b")
    first.close()
    assert not first.leads()
    # Much sooner than the lease would run out.
    until(second.leads, "the second leads")
    assert (spec()["holderIdentity"], spec()["leaseTransitions"]) == ("b", 1)


def test_a_lease_that_its_holder_left_behind_is_taken_when_it_has_run_out(lead, cluster, namespace):
    body = {"apiVersion": LEASES.api, "kind": "Lease", "metadata": {"name": "slo-autoscaler"}}
    left = {"holderIdentity": "killed", "leaseDurationSeconds": 3}
    cluster.create(LEASES.path(namespace), {**body, "spec": left})
    leader = lead("b", **BRIEF)
    assert not leader.leads()
    until(leader.leads, "the lease runs out")


def test_a_lease_that_is_deleted_under_its_holder_is_created_anew(lead, spec, cluster, namespace):
    leader = lead("a")
    cluster.delete(LEASES.path(namespace, "slo-autoscaler"))
    until(spec, "there is a lease again")
    until(leader.leads, "it leads")


def test_of_many_that_begin_at_once_one_leads(lead):
    made = []
    threads = [threading.Thread(target=lambda name=str(i): made.append(lead(name))) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(leader.leads() for leader in made) == 1


@contextmanager
def watching(one, other):
    """Ask both all the time; give the times when both led at once.

    One is asked before and after the other: a pause between two questions must not pass for two leaders.
    """
    both, stop = [], threading.Event()

    def ask():
        while not stop.wait(0.001):
            if one.leads() and other.leads() and one.leads():
                both.append(time.monotonic())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield both
    finally:
        stop.set()
        thread.join()


@pytest.mark.e2e
def test_a_frozen_network_never_makes_two_leaders_and_the_other_follows(api, lead, spec):
    with a_freezing_proxy(api.address) as proxy:
        first, second = lead("a", proxy.address, **BRIEF), lead("b", **BRIEF)
        with watching(first, second) as both:
            until(lambda: first.leads() or second.leads(), "one leads")
            proxy.freeze()
            until(second.leads, "the second leads")
            # What the first had sent is delivered now, too late.
            proxy.thaw()
            renewed = spec()["renewTime"]
            until(lambda: spec()["renewTime"] > renewed, "the lease is renewed")
        assert not both


@on_double
def test_while_the_server_refuses_connections_the_leader_stops_and_goes_on_afterwards(api, lead, caplog):
    leader = lead("a", **BRIEF)
    for method in ("GET", "PUT"):
        api.faults[method] = doubles.panic
    until(lambda: not leader.leads(), "it stops by itself")
    assert "could not be renewed in time: no longer the leader" in caplog.text
    api.faults.clear()
    until(leader.leads, "it leads again")


@on_double
def test_a_server_that_is_away_at_the_start_is_no_reason_to_end(lead):
    assert not lead("a", f"127.0.0.1:{free_port()}").leads()


@on_double
def test_a_role_that_lacks_a_rule_is_named(api, lead, caplog):
    reads = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]}
    api.rules["reader"] = [reads]
    assert not lead("a", token="reader").leads()
    assert "status 403 Forbidden: cannot create resource leases" in caplog.text


@on_double
@pytest.mark.parametrize(
    ("request_", "fault"),
    [("POST", doubles.status(409)), ("GET", doubles.status(200, b"{}"))],
    ids=["another candidate was quicker", "an answer that brings a bug to light"],
)
def test_a_poll_that_fails_is_followed_by_the_next(api, lead, caplog, request_, fault):
    api.faults[f"{request_} /apis/coordination"] = fault
    leader = lead("a")
    assert not leader.leads()
    assert ("Traceback" in caplog.text) == (request_ == "GET"), "what is usual is not logged"
    api.faults.clear()
    until(leader.leads, "it leads")


def test_a_leader_is_made_from_its_settings(kubeconfig, namespace, spec):
    leader = LeaseLeader(LeaseSettings(name="mine", namespace=namespace), (kubeconfig, None))
    assert leader.leads()
    assert spec("mine")["holderIdentity"] == leader.identity
    leader.close()
    assert "holderIdentity" not in spec("mine")
