"""Leaders by a Lease over real sockets, on servers that are well, refusing, frozen and back."""

import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from slo_autoscaler.errors import NotFoundError
from slo_autoscaler.kube import PAUSED
from slo_autoscaler.kube.lease import LEASES, Identity, LeaseLeader
from slo_autoscaler.kube.lease_rules import Settings as LeaseSettings
from support import doubles
from support.cluster import delete, on_double
from support.waits import until

BRIEF = {"duration": 3.0, "renew_interval": 0.2}
LASTING = {"duration": 60.0, "renew_interval": 0.1}
"""It is not lost because the machine is busy."""


@pytest.fixture
def lead(api, namespace, tmp_path, keep):
    """Make leaders."""

    def make(identity=None, *, token=None, **settings):
        config = LeaseSettings(namespace=namespace, **(settings or LASTING))
        return keep(LeaseLeader(config, (api.kubeconfig(tmp_path, token), None), identity))

    return make


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
    first, second = lead(**LASTING, name="mine"), lead("b", **LASTING, name="mine")
    assert spec("mine")["holderIdentity"] == first.identity
    first.close()
    assert not first.leads()
    # Much sooner than the lease would run out.
    until(second.leads, "the second leads")
    assert (spec("mine")["holderIdentity"], spec("mine")["leaseTransitions"]) == ("b", 1)


def test_close_leaves_a_lease_that_another_has_taken(lead, spec, cluster, namespace):
    leader = lead("a")
    cluster.patch(LEASES.path(namespace, "slo-autoscaler"), {"spec": {"holderIdentity": "b"}})
    until(lambda: not leader.leads(), "it has read so")
    leader.close()
    assert spec()["holderIdentity"] == "b"


@on_double
def test_leader_whose_renewals_fail_leads_no_longer_than_its_lease(api, lead):
    leader = lead("a", duration=1.0, renew_interval=0.1)
    until(leader.leads, "it leads")
    api.faults["GET /apis/coordination"] = doubles.status(503)
    until(lambda: not leader.leads(), "its lease is over")
    api.faults.clear()
    until(leader.leads, "it has its lease again")


def unknown(*_, **__):
    raise PermissionError


def test_of_two_at_once_and_for_two_leases_each_has_a_name_of_its_own(monkeypatch):
    with closing(Identity("ours/one")) as one, closing(Identity("ours/one")) as beside:
        assert one.name != beside.name
    for lease, is_same in (("ours/one", True), ("ours/two", False)):
        with closing(Identity(lease)) as later:
            assert (later.name == one.name) is is_same
    monkeypatch.setattr(Path, "read_text", unknown)
    assert Identity("ours/one").name != Identity("ours/one").name


def test_a_lease_that_is_deleted_under_its_holder_is_created_anew(lead, spec, cluster, namespace):
    leader = lead("a")
    delete(cluster, LEASES.path(namespace, "slo-autoscaler"))
    until(spec, "there is a lease again")
    until(leader.leads, "it leads")


def test_lease_with_the_annotation_is_of_no_leader_until_it_is_taken_away(lead, spec, cluster, namespace):
    leader, path = lead("a"), LEASES.path(namespace, "slo-autoscaler")
    assert leader.leads()
    cluster.annotate(path, PAUSED, "2026-12-01: prices are wrong")
    until(lambda: not leader.leads(), "it has stopped")
    standby, renewed = lead("b"), spec()["renewTime"]
    until(lambda: spec()["renewTime"] > renewed, "it is renewed")
    assert (leader.leads(), standby.leads()) == (False, False)
    cluster.annotate(path, PAUSED, None)
    until(leader.leads, "it leads again")


@contextmanager
def watching(one, other):
    """Ask both all the time; in the end neither must have led while the other did.

    One is asked before and after the other: a pause between two questions must not pass for two leaders.
    """
    both, stop = [], threading.Event()

    def ask():
        while not stop.wait(0.001):
            both.append(one.leads() and other.leads() and one.leads())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not any(both)


@on_double
@pytest.mark.e2e
def test_a_frozen_network_never_makes_two_leaders_and_the_other_follows(api, lead, spec):
    first, second = lead("a", token="first", **BRIEF), lead("b", **BRIEF)
    with watching(first, second):
        until(lambda: first.leads() or second.leads(), "one leads")
        api.freeze("first")
        until(second.leads, "the second leads")
        # What the first had sent is delivered now, too late.
        api.thaw()
        renewed = spec()["renewTime"]
        until(lambda: spec()["renewTime"] > renewed, "the lease is renewed")


@on_double
@pytest.mark.parametrize(
    ("request_", "fault"),
    [("POST", doubles.status(409)), ("GET", doubles.status(200, b"{}")), ("GET", doubles.panic)],
    ids=["another candidate was quicker", "an answer that brings a bug to light", "the server is away"],
)
def test_a_poll_that_fails_is_followed_by_the_next(api, lead, caplog, request_, fault):
    api.faults[f"{request_} /apis/coordination"] = fault
    leader = lead("a")
    assert not leader.leads()
    assert bool(caplog.text) == (request_ == "GET"), "what is usual is not logged"
    api.faults.clear()
    until(leader.leads, "it leads")
