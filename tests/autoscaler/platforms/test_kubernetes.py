"""The platform kubernetes on an API server: which Deployments it finds, and what it writes."""

import json

import pytest

from slo_autoscaler.errors import FunctionGoneError, PlatformError, ScaleChangedError, UnreachableError
from slo_autoscaler.kube.client import Resource
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms import ALL_ACTIVE
from slo_autoscaler.platforms.keys import MIN_REPLICAS, MODE
from slo_autoscaler.platforms.kubernetes import (
    AUTOSCALERS,
    DEPLOYMENTS,
    Deployment,
    Kubernetes,
    write_hold,
)
from slo_autoscaler.platforms.kubernetes import Settings as KubernetesSettings
from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.settings.schedule import hold_of, schedule_of
from slo_autoscaler.settings.spec import Modes
from support import doubles
from support.cluster import delete, on_double
from support.doubles import decide, has_listed
from support.kube_server import a_deployment, a_pod
from support.waits import until

EVENTS = Resource("v1", "events")
SCHEDULE = '[{"cron": "0 8 * * *", "duration": "2h", "min_replicas": 4}]'
REPLICAS = {"f:spec": {"f:replicas": {}}}


class Shop:
    """Deployments of a namespace; ``web`` is ours and has two replicas."""

    def __init__(self, cluster, namespace):
        self.cluster = cluster
        self.namespace = namespace
        self.web = f"web.{namespace}"
        self.scale = Scale(desired=2, available=0, min=2, max=9, unschedulable=0)

    def deploy(self, name, replicas=2, **annotations):
        body = a_deployment(name, self.namespace, replicas, **annotations)
        self.cluster.create(DEPLOYMENTS.path(self.namespace), body)
        return f"{name}.{self.namespace}"

    def change(self, name="web", **parts):
        path = DEPLOYMENTS.path(self.namespace, name)
        self.cluster.patch(f"{path}/status" if "status" in parts else path, parts)

    def replicas(self, name="web"):
        return self.cluster.get(DEPLOYMENTS.path(self.namespace, name))["spec"]["replicas"]

    def hpa(self, name, kind="Deployment"):
        target = {"apiVersion": "apps/v1", "kind": kind, "name": "web"}
        body = {
            "apiVersion": AUTOSCALERS.api,
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 3},
        }
        self.cluster.create(AUTOSCALERS.path(self.namespace), body)

    def events(self):
        return [each for items, _ in self.cluster.pages(EVENTS.path(self.namespace)) for each in items]


@pytest.fixture
def shop(api, cluster, namespace):
    if hasattr(api, "instantly_ready"):
        api.instantly_ready = False  # on no server here are there pods
    shop = Shop(cluster, namespace)
    shop.deploy("web", mode="", min_replicas="2", max_replicas="9")
    shop.deploy("other")
    return shop


@pytest.fixture
def connect(api, tmp_path, shop, keep):
    """Make platforms that have seen the shop."""

    def make(token=None, *, modes=ALL_ACTIVE, **settings):
        settings = {"namespaces": (shop.namespace,), "timeout": 10.0, **settings}
        config = KubernetesSettings(kubeconfig=api.kubeconfig(tmp_path, token), **settings)
        platform = keep(Kubernetes(config, Alone(), modes))
        until(lambda: has_listed(platform), "it has listed")
        return platform

    return make


@pytest.fixture
def platform(connect):
    return connect()


def test_scales_are_those_of_every_deployment_with_our_label_as_it_is_now(platform, shop):
    assert platform.scales() == {shop.web: shop.scale}
    off = shop.deploy("off", mode="off")
    until(lambda: set(platform.scales()) == {shop.web, off}, "it is found")
    plain = Scale(desired=2, available=0, mode="off", unschedulable=0)
    assert platform.scale(off) == platform.scales()[off] == plain
    shop.change(metadata={"labels": {MODE: "recommend"}})
    until(lambda: platform.scales()[shop.web].mode == "recommend", "it has changed")
    shop.change(metadata={"labels": {MODE: None}})
    until(lambda: set(platform.scales()) == {off}, "it is not watched any more")


@on_double
def test_scales_without_a_role_binding_in_one_namespace_are_those_of_the_others(api, connect, shop):
    api.faults["GET /apis/apps/v1/namespaces/bare/"] = doubles.status(403)
    platform = connect(namespaces=("bare", shop.namespace))
    assert set(platform.scales()) == {shop.web}
    assert set(platform.denied()) == {"bare"}


def test_a_label_without_a_mode_leaves_it_to_the_configuration(connect, shop):
    modes = Modes({f"named.{shop.namespace}": "recommend"}, "shadow")
    named, own = shop.deploy("named", mode=""), shop.deploy("own", mode="active")
    platform = connect(modes=modes)
    modes_told = {name: scale.mode for name, scale in platform.scales().items()}
    assert modes_told == {shop.web: "shadow", named: "recommend", own: "active"}
    limited = connect(modes=Modes(most="shadow")).scales()
    assert {scale.mode for scale in limited.values()} == {"shadow"}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"mode": "on"}, f"label {MODE}: 'on' must be one of active, recommend, shadow, off"),
        *(
            ({"mode": "", "max_replicas": text}, f"annotation tailbound.dev/max-replicas: {text[:20]!r} must")
            for text in ("many", "-1", "0", "9" * 5000)
        ),
        (
            {"mode": "", "schedule": '[{"cron": "never"}]'},
            "annotation tailbound.dev/schedule: 0.cron: 'never' must be",
        ),
        ({"mode": "", "hold": '{"until": "later"}'}, "annotation tailbound.dev/hold: until: 'later' must be"),
    ],
)
def test_a_label_or_bound_that_is_none_is_an_error_of_this_deployment_alone(platform, shop, odd, words):
    name = shop.deploy("odd", **odd)
    until(lambda: name in platform.scales(), "it is found")
    scales = platform.scales()
    assert f"{name}: {words}" in str(scales[name])
    assert scales[shop.web] == shop.scale


def test_scale_has_schedule_and_hold_of_the_annotations(platform, shop):
    hold = '{"until": "2026-12-01T09:00:00Z"}'
    name = shop.deploy("peak", mode="", schedule=SCHEDULE, hold=hold)
    until(lambda: name in platform.scales(), "it is found")
    scale = platform.scales()[name]
    assert (scale.schedule, scale.hold) == (schedule_of(SCHEDULE), hold_of(hold))


@pytest.mark.parametrize(
    ("entries", "scaler"),
    [
        ([{"manager": "kubectl", "subresource": "scale", "fieldsV1": REPLICAS}], "kubectl"),
        ([{"manager": "kubectl-client-side-apply", "fieldsV1": REPLICAS}], ""),
        ([{"manager": "controller", "subresource": "status", "fieldsV1": {"f:status": {}}}], ""),
        (None, ""),
    ],
)
def test_scaler_is_the_client_that_owns_the_count_by_the_scale_subresource(entries, scaler):
    document = a_deployment(mode="")
    document["metadata"]["managedFields"] = entries
    assert Deployment.of(document).scaler == scaler


def test_rollout_has_failed_once_kubernetes_has_given_up_on_its_new_pods():
    document = a_deployment(mode="")
    assert not Deployment.of(document).rollout_failed
    progressing = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}
    document["status"] = {"conditions": [progressing]}
    assert not Deployment.of(document).rollout_failed
    progressing |= {"status": "False", "reason": "ProgressDeadlineExceeded"}
    assert Deployment.of(document).rollout_failed


@pytest.mark.parametrize(
    "odd", [{"spec": {"replicas": "3"}}, {"spec": {"replicas": -1}}, {"status": {"readyReplicas": 2.5}}]
)
def test_scale_target_whose_count_is_none_is_not_read(odd):
    document = {**a_deployment("web", "shop", mode=""), **odd}
    with pytest.raises(ValueError, match="whole number"):
        Deployment.of(document)


def test_deployment_without_a_count_has_the_one_that_kubernetes_gives_it():
    document = a_deployment(mode="")
    del document["spec"]["replicas"]
    assert Deployment.of(document).desired == 1
    assert Deployment.of(a_deployment(replicas=0, mode="")).desired == 0


def test_another_autoscaler_on_the_same_deployment_is_an_error_where_we_would_act(platform, shop):
    other = shop.deploy("ours", mode="")
    shop.hpa("for-a-set", "StatefulSet")
    shop.hpa("web-hpa")
    until(lambda: "HorizontalPodAutoscaler web-hpa" in str(platform.scales()[shop.web]), "it is noticed")
    until(lambda: isinstance(platform.scales().get(other), Scale), "no other is concerned")
    with pytest.raises(PlatformError, match="web-hpa"):
        platform.scale(shop.web)
    shop.change(metadata={"labels": {MODE: "shadow"}})
    until(lambda: isinstance(platform.scales()[shop.web], Scale), "a shadow stands beside it")
    shop.change(metadata={"labels": {MODE: ""}})
    until(lambda: isinstance(platform.scales()[shop.web], PlatformError), "it would act again")
    delete(shop.cluster, AUTOSCALERS.path(shop.namespace, "web-hpa"))
    until(lambda: platform.scales()[shop.web] == shop.scale, "it is gone")


@on_double
def test_replicas_without_a_node_are_counted_until_they_have_one(api, platform, shop):
    pods = [a_pod("web", shop.namespace) for _ in range(2)]
    for pod in (*pods, a_pod("other", shop.namespace), a_pod("web", "elsewhere")):
        api.put("v1", "pods", pod)
    until(lambda: platform.scales()[shop.web].unschedulable == 2, "they are seen")
    assert "Insufficient cpu" in platform.scale(shop.web).shortage
    for pod in pods:
        api.put("v1", "pods", {"metadata": pod["metadata"], "spec": {"nodeName": "node-1"}})
    until(lambda: platform.scales()[shop.web] == shop.scale, "they have a node")


@on_double
def test_without_the_right_to_see_pods_those_without_a_node_are_unknown(api, connect, shop):
    api.faults["GET /api/v1/namespaces"] = doubles.status(403)
    assert connect().scales()[shop.web].unschedulable is None


@on_double
def test_without_the_right_to_see_other_autoscalers_there_are_none(api, connect, shop, caplog):
    api.faults["GET /apis/autoscaling"] = doubles.status(403)
    assert connect().scales() == {shop.web: shop.scale}
    assert "horizontalpodautoscalers: status 403" in caplog.text


# Writes


def test_set_scale_writes_the_count_which_is_seen_at_once_until_another_writer_changes_it(platform, shop):
    decide(platform, shop.web, 5)
    assert shop.replicas() == 5
    assert platform.scales()[shop.web].desired == 5
    shop.change(spec={"replicas": 1})
    until(lambda: platform.scales()[shop.web].desired == 1, "the watch reports it")


@on_double
def test_a_status_that_changed_is_no_reason_to_give_up_unless_it_does_with_each_try(api, platform, shop):
    # While pods start, a real one changes some ten times a second.
    scale, tries = f"PATCH {DEPLOYMENTS.path(shop.namespace, 'web', 'scale')}", []

    def overtaken(handler):
        tries.append(handler.path)
        if len(tries) == 3:
            api.faults.clear()
        doubles.status(409)(handler)

    api.faults[scale] = overtaken
    decide(platform, shop.web, 4)
    assert shop.replicas() == 4
    api.faults[scale] = doubles.status(409)
    with pytest.raises(PlatformError, match="status 409"):
        decide(platform, shop.web, 5)


def test_a_decision_on_a_count_that_another_writer_has_changed_is_left_out(platform, shop):
    seen = platform.scales()[shop.web]
    shop.change(spec={"replicas": 7})
    until(lambda: platform.scales()[shop.web].desired == 7, "the watch reports it")
    with pytest.raises(ScaleChangedError, match="another writer has set the count to 7 where it was 2"):
        platform.set_scale(shop.web, 4, seen)
    assert shop.replicas() == 7


def test_scale_has_the_platforms_maximum_of_every_function(connect, shop):
    assert connect(cap=3).scales()[shop.web].cap == 3


def test_set_scale_to_the_present_count_is_no_event(platform, shop):
    decide(platform, shop.web, 2)
    decide(platform, shop.web, 3)
    until(shop.events, "an event is there")
    assert [each["message"] for each in shop.events()] == ["Scaled replicas from 2 to 3"]


def test_nothing_is_scaled_to_zero(platform, shop):
    with pytest.raises(PlatformError, match="nothing wakes a Deployment from zero"):
        decide(platform, shop.web, 0)
    assert shop.replicas() == 2


def test_a_deployment_that_is_gone_or_never_was_ours_is_gone(platform, shop):
    for name in (f"nope.{shop.namespace}", f"other.{shop.namespace}", "web.elsewhere"):
        with pytest.raises(FunctionGoneError, match=r"label tailbound\.dev/mode"):
            platform.scale(name)
        with pytest.raises(FunctionGoneError, match="no such scale target"):
            decide(platform, name, 2)
    delete(shop.cluster, DEPLOYMENTS.path(shop.namespace, "web"))
    with pytest.raises(FunctionGoneError):
        decide(platform, shop.web, 3)


@on_double
def test_while_the_list_fails_each_deployment_can_be_read_alone_and_scaled(api, platform, shop):
    path = DEPLOYMENTS.path(shop.namespace)
    web = json.dumps(shop.cluster.get(f"{path}/web")).encode()
    # Lists and watches fail; a Deployment can be read.
    api.faults[f"GET {path}/web"] = doubles.status(200, web)
    api.faults[f"GET {path}"] = doubles.panic
    api.end_watches()

    def is_blind():
        try:
            platform.scales()
        except UnreachableError:
            return True
        return False

    until(is_blind, "the list is not current")
    assert platform.scale(shop.web) == shop.scale
    platform.set_scale(shop.web, 4, platform.scale(shop.web))
    assert shop.replicas() == 2, "the answer is the one from before"
    api.faults.clear()
    assert shop.replicas() == 4


# Other kinds

ROLLOUTS = Resource("argoproj.io/v1alpha1", "rollouts")
ROLLOUT = {"apiVersion": ROLLOUTS.api, "kind": "Rollout"}


@pytest.fixture
def rollout(api, cluster, shop):
    """Create a Rollout with our label; return its name."""
    api.offers += ["rollouts", "rollouts/scale", "rollouts/status"]
    api.kinds["rollouts"] = "Rollout"
    body = {**a_deployment("canary", shop.namespace, 3, mode="", max_replicas="9"), **ROLLOUT}
    cluster.create(ROLLOUTS.path(shop.namespace), body)
    return f"canary.{shop.namespace}"


@on_double
def test_scale_target_of_another_kind_is_scaled_beside_the_deployments(connect, shop, rollout):
    platform = connect(scale_targets=[ROLLOUT])
    until(lambda: set(platform.scales()) == {shop.web, rollout}, "it is found")
    assert platform.scales()[rollout] == Scale(desired=3, available=0, max=9)
    decide(platform, rollout, 5)
    assert shop.cluster.get(ROLLOUTS.path(shop.namespace, "canary"))["spec"]["replicas"] == 5
    assert platform.scale(rollout).desired == platform.scales()[rollout].desired == 5
    until(shop.events, "an event is there")
    assert shop.events()[0]["involvedObject"]["kind"] == "Rollout"


@on_double
def test_scale_target_that_the_server_does_not_have_is_named_and_taken_up_when_it_does(
    api, connect, shop, rollout
):
    api.offers.remove("rollouts/scale")
    platform = connect(scale_targets=[ROLLOUT])
    assert set(platform.scales()) == {shop.web}
    assert list(platform.denied()) == [f"Rollout of {ROLLOUTS.api}"]
    api.offers.append("rollouts/scale")
    until(lambda: rollout in platform.scales(), "it is found")
    assert platform.denied() == {}


@on_double
def test_scale_target_that_the_role_forbids_stops_no_deployment(api, connect, shop, rollout):
    api.faults["GET /apis/argoproj.io/v1alpha1/namespaces/"] = doubles.status(403)
    platform = connect(scale_targets=[ROLLOUT])
    until(lambda: platform.scales() and platform.denied(), "it is refused")
    assert set(platform.scales()) == {shop.web}


@on_double
def test_objects_of_two_kinds_with_one_name_are_not_scaled(connect, shop, rollout):
    same = shop.deploy("canary", mode="")
    platform = connect(scale_targets=[ROLLOUT])
    until(lambda: isinstance(platform.scales().get(rollout), PlatformError), "both are found")
    assert same == rollout
    assert "several kinds" in str(platform.scales()[rollout])


@on_double
def test_hold_is_written_to_a_scale_target_of_another_kind(api, tmp_path, shop, rollout):
    targets = [ROLLOUT]
    config = KubernetesSettings(kubeconfig=api.kubeconfig(tmp_path), scale_targets=targets)
    write_hold(config, rollout, "text")
    found = shop.cluster.get(ROLLOUTS.path(shop.namespace, "canary"))
    assert found["metadata"]["annotations"]["tailbound.dev/hold"] == "text"


# Events


def test_each_scaling_is_an_event_and_the_same_again_counts_it_up(platform, shop):
    for _ in range(3):
        decide(platform, shop.web, 3)
        decide(platform, shop.web, 2)
    until(lambda: [each["count"] for each in shop.events()] == [3, 3], "two events, thrice each")
    assert {each["reason"] for each in shop.events()} == {"ScaledUp", "ScaledDown"}
    uid = shop.cluster.get(DEPLOYMENTS.path(shop.namespace, "web"))["metadata"]["uid"]
    about = {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": shop.namespace, "name": "web"}
    assert shop.events()[0]["involvedObject"] == {**about, "uid": uid}


def test_scales_deployment_with_a_mistyped_key_names_the_likely_one(connect, shop):
    shop.change(metadata={"annotations": {"tailbound.dev/max-replica": "3"}, "labels": {MIN_REPLICAS: "2"}})
    told = connect().scales()[shop.web].unknown
    assert (
        "annotation tailbound.dev/max-replica is unknown, did you mean annotation tailbound.dev/max-" in told
    )
    assert "label tailbound.dev/min-replicas is unknown, did you mean annotation tailbound.dev/min-" in told


def test_announce_by_a_standby_writes_nothing(api, tmp_path, shop, keep, connect):
    config = KubernetesSettings(kubeconfig=api.kubeconfig(tmp_path), namespaces=(shop.namespace,))
    standby, leader = keep(Kubernetes(config, Alone(leads=False))), connect()
    until(lambda: has_listed(standby), "it has listed")
    standby.announce(shop.web, "NoData", "standby")
    leader.announce(shop.web, "NoData", "leader")
    until(shop.events, "an event is there")
    assert [(each["message"], each["type"]) for each in shop.events()] == [("leader", "Warning")]


def test_announce_writes_an_event_on_a_deployment_and_nothing_without_one(platform, shop):
    platform.announce(f"gone.{shop.namespace}", "SetByHand", "from 2 to 5")
    platform.announce(shop.web, "SetByHand", "from 2 to 5")
    until(shop.events, "an event is there")
    (event,) = shop.events()
    about = event["involvedObject"]["name"], event["reason"], event["message"]
    assert about == ("web", "SetByHand", "from 2 to 5")
