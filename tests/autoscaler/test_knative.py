"""Knative's platforms against an API server over real sockets: the class, the floor, outages and restarts."""

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from autoscaler import doubles
from autoscaler.doubles import until
from autoscaler.knative_world import (
    DEPLOYMENT,
    NAMESPACE,
    PA,
    REVISION,
    SKS,
    World,
    an_autoscaler,
    autoscaling,
    labels,
)
from autoscaler.kube_server import a_kube_server
from slo_autoscaler.errors import FunctionGoneError, PlatformError
from slo_autoscaler.kube.loop import DEBOUNCE_SECONDS
from slo_autoscaler.leader import Alone
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.knative import Settings as KnativeSettings
from slo_autoscaler.platforms.knative import knative
from slo_autoscaler.platforms.knative.floor import Floor
from slo_autoscaler.platforms.knative.minimum import APPLIED, MIN_SCALE, OPT_IN, ORIGINAL
from slo_autoscaler.platforms.knative.own_class import OwnClass

DEPLOY = Path(__file__).resolve().parents[2] / "deploy/knative"
PA_PATH = "PATCH /apis/autoscaling.internal.knative.dev/"
STATUS_OF = PA_PATH + "v1alpha1/namespaces/default/podautoscalers/"


class Standby:
    """A leader that leads when the test says so."""

    def __init__(self, leading=False):
        self.leading = leading

    def leads(self):
        return self.leading

    def close(self):
        pass


@pytest.fixture
def world():
    with a_kube_server() as server:
        world = World(server)
        server.admission = world.admit
        world.configure()
        with world.serving():
            yield world


@pytest.fixture
def start(world, tmp_path):
    """Start platforms on the server, and close them at the end."""
    platforms = []

    def start(leader=None, **settings):
        settings = {"timeout": 2.0, **settings}
        config = KnativeSettings(kubeconfig=world.server.kubeconfig(tmp_path), **settings)
        platform = knative(config, leader or Alone())
        platforms.append(platform)
        return platform

    yield start
    for platform in platforms:
        platform.close()


def is_ready(world, name):
    return lambda: world.says(name, "Ready") == "True"


def writes(server):
    return [line for line in server.requests if not line.startswith("GET ")]


@contextmanager
def nothing_written(server):
    """Whatever is done in the block and one pass later, the server is not written to."""
    before = len(writes(server))
    yield
    assert writes(server)[before:] == []


def settle(server):
    """Wait until there has been nothing to write for several passes of the threads."""

    def is_quiet():
        before = len(writes(server))
        time.sleep(15 * DEBOUNCE_SECONDS)
        return len(writes(server)) == before

    until(is_quiet, "all is written")


# The class


def test_a_new_revision_is_raised_to_its_minimum_and_becomes_ready(world, start):
    name = world.revise(min_scale="2")
    start()
    until(is_ready(world, name), "the revision is ready")
    assert world.replicas(name) == 2
    status = world.autoscaler(name)["status"]
    assert (status["serviceName"], status["metricsServiceName"]) == (name, f"{name}-private")
    assert (status["desiredScale"], status["actualScale"]) == (2, 2)
    assert status["observedGeneration"] == world.autoscaler(name)["metadata"]["generation"]
    assert world.service(name)["spec"]["mode"] == "Serve"
    owner = world.service(name)["metadata"]["ownerReferences"][0]
    assert owner["uid"] == world.autoscaler(name)["metadata"]["uid"]


def test_a_decision_is_carried_out_and_seen_at_once(world, start):
    name = world.revise(min_scale="1", max_scale="8")
    platform = start()
    until(is_ready(world, name), "the revision is ready")
    scale = Scale(desired=1, available=1, min=1, max=8, revision=name)
    assert platform.scales() == {"tabular.default": scale}
    platform.set_scale("tabular.default", 3)
    assert world.replicas(name) == 3
    assert platform.scales()["tabular.default"].desired == 3
    until(lambda: platform.scale("tabular.default").available == 3, "the watch tells of the new replicas")
    until(lambda: world.autoscaler(name)["status"]["desiredScale"] == 3, "the status follows")
    assert world.says(name, "Ready") == "True"


def test_scaling_does_not_move_the_time_of_any_condition(world, start):
    name = world.revise()
    platform = start()
    until(is_ready(world, name), "the revision is ready")
    times = world.times(name)
    for count in (3, 5, 1):
        platform.set_scale("tabular.default", count)
        until(
            lambda count=count: world.autoscaler(name)["status"]["actualScale"] == count, "the status follows"
        )
    assert world.times(name) == times


def test_while_nothing_changes_nothing_is_written(world, start):
    name = world.revise()
    platform = start()
    until(is_ready(world, name), "the revision is ready")
    settle(world.server)
    platform.scales()
    with nothing_written(world.server):
        for _ in range(3):
            platform.reconcile_scale()
            platform.reconcile_status()


def test_the_scale_comes_before_the_status_and_a_webhook_that_is_away_does_not_hold_it_up(world, start):
    name = world.revise()
    platform = start()
    until(is_ready(world, name), "the revision is ready")
    times = world.times(name)
    world.server.faults[PA_PATH] = doubles.status(500, b'{"message": "failed calling webhook"}')
    for count in (2, 4, 3):
        platform.set_scale("tabular.default", count)
        assert world.replicas(name) == count
    assert world.autoscaler(name)["status"]["desiredScale"] == 1, "nobody could be told"
    world.server.faults.clear()
    until(lambda: world.autoscaler(name)["status"]["desiredScale"] == 3, "the status follows when it can")
    assert world.times(name) == times


def test_a_status_write_that_hangs_holds_up_no_revision_that_is_to_be_raised(world, start):
    released = threading.Event()
    world.server.faults[PA_PATH] = doubles.hang(released)
    first = world.revise(min_scale="2")
    start(timeout=1.0)
    try:
        until(lambda: world.replicas(first) == 2, "the first is raised")
        second = world.revise(service="vision", min_scale="3")
        until(lambda: world.replicas(second) == 3, "the second is raised, while the first one's status hangs")
    finally:
        world.server.faults.clear()
        released.set()
    until(is_ready(world, second), "its status is written in the end")


def test_a_refused_status_of_one_revision_keeps_no_other_from_becoming_ready(world, start):
    bad, good = world.revise(), world.revise(service="vision")
    world.server.faults[STATUS_OF + bad] = doubles.status(422)
    start()
    until(is_ready(world, good), "the other one is ready")
    assert world.says(bad, "Ready") is None


def test_a_restart_changes_no_count_and_no_condition(world, start):
    name = world.revise()
    first = start()
    until(is_ready(world, name), "the revision is ready")
    first.set_scale("tabular.default", 4)
    until(lambda: world.autoscaler(name)["status"]["actualScale"] == 4, "the status follows")
    settle(world.server)
    first.close()
    before = world.autoscaler(name)
    with nothing_written(world.server):
        second = start()
        assert second.scales()["tabular.default"].desired == 4
        second.reconcile_scale()
        second.reconcile_status()
    assert world.autoscaler(name) == before


def test_a_podautoscaler_that_is_made_anew_starts_anew_and_keeps_its_count(world, start):
    name = world.revise()
    platform = start()
    until(is_ready(world, name), "the revision is ready")
    platform.set_scale("tabular.default", 3)
    first = world.autoscaler(name)["metadata"]["uid"]
    world.server.remove(*PA, NAMESPACE, name)
    world.server.remove(*SKS, NAMESPACE, name)
    world.server.put(*PA, an_autoscaler(name, "tabular", 1))
    until(is_ready(world, name), "it is ready again")
    assert world.service(name)["metadata"]["ownerReferences"][0]["uid"] != first
    assert world.replicas(name) == 3


def test_a_revision_that_comes_from_knatives_own_class_gets_its_service_into_serve(world, start):
    name = world.revise()
    pa = world.autoscaler(name)
    world.server.put(
        *SKS,
        {
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "ownerReferences": [{"uid": pa["metadata"]["uid"], "controller": True}],
            },
            "spec": {
                "mode": "Proxy",
                "numActivators": 5,
                "objectRef": pa["spec"]["scaleTargetRef"],
                "protocolType": "http1",
            },
        },
    )
    start()
    until(is_ready(world, name), "the revision is ready")
    spec = world.service(name)["spec"]
    assert (spec["mode"], "numActivators" in spec) == ("Serve", False)


def test_a_service_of_somebody_else_is_left_alone_and_named(world, start):
    name = world.revise()
    theirs = {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"mode": "Proxy"}}
    world.server.put(*SKS, theirs)
    start()
    until(lambda: world.says(name, "Ready") == "False NotOwned", "the status says so")
    assert world.service(name)["spec"] == {"mode": "Proxy"}
    assert world.autoscaler(name)["status"]["serviceName"] == ""


def test_a_service_that_cannot_be_created_is_said_and_made_when_it_can_be(world, start):
    name = world.revise()
    create = "POST /apis/networking.internal.knative.dev/"
    world.server.faults[create] = doubles.status(403, b'{"message": "cannot set blockOwnerDeletion"}')
    start()
    until(lambda: world.says(name, "SKSReady") == "Unknown FailedCreate", "the status says so")
    world.server.faults.clear()
    until(is_ready(world, name), "the revision is ready")


def test_a_revision_that_is_being_deleted_is_left_alone(world, start):
    name = world.revise(min_scale="2")
    with world.edit(PA, name) as pa:
        pa["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    platform = start()
    assert platform.scales() == {}
    with nothing_written(world.server):
        platform.reconcile_scale()
        platform.reconcile_status()


def test_a_revision_waits_for_its_deployment(world, start):
    world.server.put(*PA, an_autoscaler("tabular-00001", "tabular", 1))
    platform = start()
    assert platform.scales() == {}
    name = world.revise()
    until(is_ready(world, name), "the revision is ready")
    assert list(platform.scales()) == ["tabular.default"]


def test_revisions_of_another_class_are_left_alone(world, start):
    other = world.revise(**{"class": "kpa.autoscaling.knative.dev", "min_scale": "3"})
    ours = world.revise(service="vision")
    platform = start()
    until(is_ready(world, ours), "ours is ready")
    assert list(platform.scales()) == ["vision.default"]
    assert world.replicas(other) == 1
    with pytest.raises(
        FunctionGoneError, match=r"tabular\.default: no revision of the class slo\.tailbound\.dev"
    ):
        platform.set_scale("tabular.default", 2)


def test_a_class_that_changes_is_followed_in_both_directions(world, start):
    name = world.revise(**{"class": "kpa.autoscaling.knative.dev"})
    platform = start()
    until(lambda: platform.scales() == {}, "there is nothing of ours")
    with world.edit(PA, name) as pa:
        pa["metadata"]["annotations"] |= autoscaling(**{"class": "slo.tailbound.dev"})
    until(is_ready(world, name), "it is ours")
    with world.edit(PA, name) as pa:
        pa["metadata"]["annotations"] |= autoscaling(**{"class": "kpa.autoscaling.knative.dev"})
    until(lambda: platform.scales() == {}, "it is not ours any more")


def test_a_rollout_starts_with_the_count_of_what_it_takes_over_and_the_old_one_goes(world, start):
    world.configure(scale_to_zero_grace_period="0s")
    old = world.revise(1)
    world.route(r1=100)
    platform = start()
    until(is_ready(world, old), "the first revision is ready")
    platform.set_scale("tabular.default", 4)
    new = world.revise(2)
    until(lambda: world.replicas(new) == 4, "the new one has as many before it is routed")
    until(is_ready(world, new), "the new one is ready")
    assert world.replicas(old) == 4
    world.route(r2=100)
    world.reach(old, "Unreachable")
    until(lambda: world.replicas(old) == 0, "nothing is routed to the old one any more")
    assert world.says(old, "Active") == "False NoTraffic"
    assert world.service(old)["spec"]["mode"] == "Proxy"
    assert platform.scales()["tabular.default"].desired == 4
    world.route(r1=100)
    world.reach(old, "Reachable")
    until(lambda: world.replicas(old) == 4, "rolled back: it has the count for all traffic again")
    until(is_ready(world, old), "and serves")
    assert world.service(old)["spec"]["mode"] == "Serve"


def test_an_old_revision_keeps_its_replicas_until_its_status_could_be_written(world, start):
    world.configure(scale_to_zero_grace_period="0s")
    old, new = world.revise(1), world.revise(2)
    world.route(r1=50, r2=50)
    platform = start()
    until(is_ready(world, old), "the old one is ready")
    until(is_ready(world, new), "the new one is ready")
    world.server.faults[STATUS_OF + old] = doubles.status(403)
    world.route(r2=100)
    world.reach(old, "Unreachable")
    until(lambda: world.service(old)["spec"]["mode"] == "Proxy", "the activator is put into the path")
    platform.reconcile_scale()
    assert world.replicas(old) == 1
    world.server.faults.clear()
    until(lambda: world.replicas(old) == 0, "now it goes")


def test_a_canary_has_replicas_for_its_share(world, start):
    stable, canary = world.revise(1), world.revise(2)
    world.route(r1=80, r2=20)
    platform = start()
    until(is_ready(world, canary), "both are there")
    platform.set_scale("tabular.default", 10)
    assert world.replicas(stable) == 10
    until(lambda: world.replicas(canary) == 2, "a fifth")


def test_zero_is_refused_and_whoever_allowed_it_is_told(world, start):
    name = world.revise(min_scale="0")
    platform = start()
    until(is_ready(world, name), "the revision is ready")
    platform.set_scale("tabular.default", 3)
    platform.set_scale("tabular.default", 0)
    assert world.replicas(name) == 1
    assert world.says(name, "ScaleToZero") == "False NotSupported"
    assert world.says(name, "Ready") == "True"


def test_who_does_not_lead_writes_nothing_and_takes_over_what_is_there(world, start):
    name = world.revise()
    leader = Standby()
    platform = start(leader)
    with nothing_written(world.server):
        assert platform.scales()["tabular.default"].desired == 1
        platform.reconcile_scale()
        platform.reconcile_status()
        with pytest.raises(PlatformError, match=r"tabular\.default: not the leader"):
            platform.set_scale("tabular.default", 5)
    leader.leading = True
    until(is_ready(world, name), "it leads now")


def test_a_decision_on_a_deployment_whose_status_has_changed_meanwhile_is_carried_out(world, start):
    name = world.revise()
    platform = start()
    until(is_ready(world, name), "the revision is ready")
    platform.set_scale("tabular.default", 2)
    # The watch may not have told yet of what this changed.
    platform.set_scale("tabular.default", 3)
    assert world.replicas(name) == 3


def test_a_decision_on_a_count_that_somebody_else_has_changed_meanwhile_is_not_carried_out(world, start):
    name = world.revise()
    platform = start(Standby(leading=True))
    until(is_ready(world, name), "the revision is ready")
    with watches_held(platform):
        with world.edit(DEPLOYMENT, f"{name}-deployment") as deployment:
            deployment["spec"]["replicas"] = 7
        with pytest.raises(PlatformError, match="status 409"):
            platform.set_scale("tabular.default", 3)


def test_who_leads_no_more_when_its_write_comes_too_late_does_not_try_again(world, start):
    name = world.revise()
    here = threading.current_thread()

    class Here(Standby):
        """Leads in this thread alone: the platform's own might write the same."""

        def leads(self):
            return self.leading and threading.current_thread() is here

    leader = Here(leading=True)
    platform = start(leader)
    scale = "PATCH /apis/apps/v1/namespaces/default/deployments/"

    def too_late(handler):
        leader.leading = False
        doubles.status(409, b'{"reason": "Conflict", "message": "the object has been modified"}')(handler)

    world.server.faults[scale] = too_late
    with pytest.raises(PlatformError, match="status 409"):
        platform.set_scale("tabular.default", 3)
    assert len(writes(world.server)) == 1
    assert world.replicas(name) == 1


def test_what_somebody_else_sets_is_set_right(world, start):
    name = world.revise()
    platform = start()
    until(is_ready(world, name), "the revision is ready")
    platform.set_scale("tabular.default", 2)
    with world.edit(DEPLOYMENT, f"{name}-deployment") as deployment:
        deployment["spec"]["replicas"] = 7
    until(lambda: world.replicas(name) == 2, "its count is ours")


def test_a_function_that_is_not_there_is_gone(start):
    with pytest.raises(FunctionGoneError, match=r"nope\.default"):
        start().scale("nope.default")


def test_an_api_server_that_is_away_is_a_platform_error_and_nothing_is_lost(world, start):
    name = world.revise()
    platform = start()
    until(is_ready(world, name), "the revision is ready")
    platform.set_scale("tabular.default", 3)
    world.server.faults["GET /apis"] = doubles.panic
    world.server.faults["PATCH "] = doubles.panic
    with pytest.raises(PlatformError):
        platform.set_scale("tabular.default", 5)
    world.server.faults.clear()
    until(lambda: platform.scales() and True, "it works again")
    assert world.replicas(name) == 3


def test_only_the_configured_namespaces_are_looked_at(world, start):
    world.revise()
    assert start(namespaces=("elsewhere",)).scales() == {}
    assert list(start(namespaces=("elsewhere", "default")).scales()) == ["tabular.default"]


# The floor


@pytest.fixture
def revision(world):
    """Make or change a Revision that Knative's own autoscaler keeps."""

    def revision(generation=1, desired=1, actual=1, ready="True", **annotations):
        name = f"tabular-{generation:05}"
        keys = {"min": MIN_SCALE, "max": "autoscaling.knative.dev/max-scale", "floor": OPT_IN}
        return world.server.put(
            *REVISION,
            {
                "metadata": {
                    "name": name,
                    "namespace": NAMESPACE,
                    "labels": labels("tabular", name, generation),
                    "annotations": {
                        OPT_IN: "true",
                        **{keys[key]: text for key, text in annotations.items()},
                    },
                },
                "status": {
                    "desiredReplicas": desired,
                    "actualReplicas": actual,
                    "conditions": [{"type": "Ready", "status": ready}],
                },
            },
        )

    return revision


def annotations_of(world, generation=1):
    found = world.server.get(*REVISION, NAMESPACE, f"tabular-{generation:05}")
    return found["metadata"]["annotations"]


def opt_out(world, generation=1):
    with world.edit(REVISION, f"tabular-{generation:05}") as found:
        found["metadata"]["annotations"].pop(OPT_IN)


def test_a_floor_is_written_on_the_revision_and_seen_at_once(world, start, revision):
    revision(min="2", max="9", desired=3, actual=3)
    world.route(r1=100)
    platform = start(mode="floor")
    scale = Scale(desired=2, available=3, min=2, max=9, revision="tabular-00001")
    assert platform.scales() == {"tabular.default": scale}
    assert platform.scale("tabular.default").max == 9
    platform.set_scale("tabular.default", 5)
    assert annotations_of(world) == {
        OPT_IN: "true",
        MIN_SCALE: "5",
        APPLIED: "5",
        ORIGINAL: "2",
        "autoscaling.knative.dev/max-scale": "9",
    }
    assert platform.scales()["tabular.default"].desired == 5


def test_the_users_minimum_comes_back_when_it_leaves_and_the_rest_is_left_alone(world, start, revision):
    revision(min="2")
    world.route(r1=100)
    platform = start(mode="floor")
    platform.set_scale("tabular.default", 5)
    opt_out(world)
    until(lambda: annotations_of(world) == {MIN_SCALE: "2"}, "its own minimum is back")
    until(lambda: platform.scales() == {}, "it is not ours any more")


def test_a_restart_keeps_the_floor(world, start, revision):
    revision()
    world.route(r1=100)
    first = start(mode="floor")
    first.set_scale("tabular.default", 4)
    first.close()
    with nothing_written(world.server):
        second = start(mode="floor")
        assert second.scales()["tabular.default"].desired == 4
        second.reconcile_floors()


def test_a_rollout_takes_the_floor_along(world, start, revision):
    revision(1)
    world.route(r1=100)
    platform = start(mode="floor")
    platform.set_scale("tabular.default", 4)
    revision(2, ready="Unknown")
    until(lambda: annotations_of(world, 2).get(MIN_SCALE) == "4", "the new one has it before it is routed")
    revision(2)
    world.route(r2=100)
    until(lambda: MIN_SCALE not in annotations_of(world, 1), "the old one may go to zero")
    until(lambda: annotations_of(world, 2).get(MIN_SCALE) == "4", "the new one keeps it")


def test_a_function_that_does_not_ask_gets_no_floor(world, start, revision):
    revision(floor="false")
    world.route(r1=100)
    platform = start(mode="floor")
    assert platform.scales() == {}
    with pytest.raises(FunctionGoneError, match=r"no revision with the annotation slo\.tailbound\.dev/floor"):
        platform.set_scale("tabular.default", 5)


def test_a_knative_that_is_too_old_for_floors_is_refused_by_name(world, start, revision):
    revision()
    world.configure(version="1.20.1")
    platform = start(mode="floor")
    with pytest.raises(
        PlatformError, match=r"platform\.mode: floor needs Knative 1\.21 or later; this is 1\.20"
    ):
        platform.scales()


def test_without_knowing_the_version_no_floor_is_given(world, start, revision):
    revision()
    world.server.remove("v1", "configmaps", "knative-serving", "config-autoscaler")
    with pytest.raises(PlatformError, match="config-autoscaler"):
        start(mode="floor").scales()


def test_a_refused_floor_is_an_error_that_says_why(world, start, revision):
    revision()
    world.route(r1=100)
    world.server.faults["PATCH /apis/serving.knative.dev"] = doubles.status(
        400, b'{"message": "validation failed: max-scale=6 is less than min-scale=9"}'
    )
    platform = start(mode="floor")
    with pytest.raises(PlatformError, match="max-scale=6 is less than min-scale=9"):
        platform.set_scale("tabular.default", 9)
    assert MIN_SCALE not in annotations_of(world)


def test_who_does_not_lead_gives_no_floor(world, start, revision):
    revision()
    world.route(r1=100)
    platform = start(Standby(), mode="floor")
    with nothing_written(world.server), pytest.raises(PlatformError, match="not the leader"):
        platform.set_scale("tabular.default", 5)
    platform.reconcile_floors()


def test_the_mode_chooses_the_platform(start):
    assert isinstance(start(), OwnClass)
    assert isinstance(start(mode="floor"), Floor)


def test_a_revision_whose_status_changes_at_the_same_moment_gets_its_floor(world, start, revision):
    revision(desired=1)
    world.route(r1=100)
    platform = start(mode="floor")
    for desired in (2, 3, 4):
        with world.edit(REVISION, "tabular-00001") as found:
            found["status"]["desiredReplicas"] = desired
        platform.set_scale("tabular.default", desired)
        assert annotations_of(world)[MIN_SCALE] == str(desired)


# As a whole


@pytest.mark.e2e
def test_the_autoscaler_keeps_revisions_while_prometheus_is_away_and_leaves_them_when_it_is_stopped(
    world, tmp_path
):
    name = world.revise(min_scale="2")
    config = tmp_path / "config.yaml"
    platform = {"kind": "knative", "kubeconfig": world.server.kubeconfig(tmp_path), "timeout": "2s"}
    document = {
        "platform": platform,
        "prometheus": {"url": "http://127.0.0.1:9"},
        "web": {"host": "127.0.0.1", "port": 0, "page_port": None},
    }
    config.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "slo_autoscaler", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(is_ready(world, name), "the revision is ready")
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert world.replicas(name) == 2


# Rights


def rules(way):
    """What the roles of an installation allow, as the server checks it."""
    found = []
    for path in (way, "settings"):
        for document in yaml.safe_load_all((DEPLOY / path / "role.yaml").read_text()):
            found += document.get("rules", [])
    return found


def allowed(way):
    return {
        (verb, group, resource)
        for rule in rules(way)
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_class_needs_every_right_of_its_role_and_no_other(world, start):
    world.server.rules = rules("class")
    world.configure(scale_to_zero_grace_period="0s")
    old = world.revise(1)
    world.route(r1=100)
    platform = start()
    until(is_ready(world, old), "the first revision is ready")
    with watches_held(platform):
        # The status of the Deployment changes, and the watch does not tell.
        with world.edit(DEPLOYMENT, f"{old}-deployment") as deployment:
            deployment["status"]["observedGeneration"] = 1
        platform.set_scale("tabular.default", 2)
    assert world.replicas(old) == 2
    new = world.revise(2)
    until(is_ready(world, new), "the second revision is ready")
    world.route(r2=100)
    world.reach(old, "Unreachable")
    until(lambda: world.replicas(old) == 0, "the first one has gone")
    # Asked of whoever names an owner, by clusters that check it; the double does not.
    finalizers = {("update", "autoscaling.internal.knative.dev", "podautoscalers/finalizers")}
    assert world.server.verbs() == allowed("class") - finalizers


def test_the_floor_needs_every_right_of_its_role_and_no_other(world, start, revision):
    world.server.rules = rules("floor")
    revision()
    world.route(r1=100)
    platform = start(mode="floor")
    platform.set_scale("tabular.default", 4)
    opt_out(world)
    until(lambda: MIN_SCALE not in annotations_of(world), "its own minimum is back")
    assert world.server.verbs() == allowed("floor")


@contextmanager
def watches_held(platform):
    """What the platform sees in the block is what it saw before."""
    deployments = platform._deployments
    seen = deployments.items()
    deployments.items = lambda: seen
    try:
        yield
    finally:
        del deployments.items
