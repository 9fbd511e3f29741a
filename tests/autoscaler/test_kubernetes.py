"""The platform kubernetes on an API server over real sockets: what is found, written and minded."""

import pytest

from autoscaler import doubles
from autoscaler.doubles import until
from autoscaler.freezing_proxy import a_freezing_proxy
from autoscaler.kube_server import a_deployment, a_kube_server
from slo_autoscaler.errors import FunctionGoneError, PlatformError, UnreachableError
from slo_autoscaler.leader import Alone
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.kubernetes import Kubernetes
from slo_autoscaler.platforms.kubernetes import Settings as KubernetesSettings

APPS = ("apps/v1", "deployments")
WEB = ("apps/v1", "deployments", "shop", "web")
SCALE = "PATCH /apis/apps/v1/namespaces/shop/deployments/web/scale"


@pytest.fixture
def server():
    with a_kube_server() as double:
        double.put(*APPS, a_deployment(autoscale="true", min_replicas="2", max_replicas="9"))
        double.put(*APPS, a_deployment("other"))
        double.put(*APPS, a_deployment("api", "bank", 3, autoscale="true"))
        yield double


@pytest.fixture
def connect(server, tmp_path):
    made = []

    def make(address=None, **settings):
        settings = {"timeout": 5.0, **settings}
        platform = Kubernetes(
            KubernetesSettings(kubeconfig=server.kubeconfig(tmp_path, address), **settings), Alone()
        )
        made.append(platform)
        return platform

    yield make
    for platform in made:
        platform.close()


@pytest.fixture
def platform(connect):
    return connect()


def replicas(server):
    return server.get(*WEB)["spec"]["replicas"]


def hpa(name="web-hpa", target="web", kind="Deployment"):
    return {
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": target}},
    }


AUTOSCALERS = ("autoscaling/v2", "horizontalpodautoscalers")


def test_every_deployment_with_our_annotation_is_found_with_its_bounds(platform):
    assert platform.scales() == {
        "web.shop": Scale(desired=2, available=2, min=2, max=9),
        "api.bank": Scale(desired=3, available=3),
    }


def test_the_configured_namespaces_are_looked_at_alone(connect):
    assert list(connect(namespaces=("bank",)).scales()) == ["api.bank"]
    assert sorted(connect(namespaces=("bank", "shop")).scales()) == ["api.bank", "web.shop"]


def test_ready_replicas_are_available_ones(platform, server):
    platform.scales()
    server.instantly_ready = False
    server.put(*APPS, {**server.get(*WEB), "status": {"replicas": 2, "readyReplicas": 1}})
    until(lambda: platform.scales()["web.shop"].available == 1, "one has become unready")
    server.put(*APPS, {**server.get(*WEB), "status": {}})
    until(lambda: platform.scales()["web.shop"].available == 0, "none is ready")


def test_a_count_that_was_never_given_is_one(platform, server):
    document = a_deployment("fresh", autoscale="true")
    del document["spec"]["replicas"]
    server.put(*APPS, document)
    until(lambda: "fresh.shop" in platform.scales(), "it is found")
    assert platform.scale("fresh.shop").desired == 1


def test_an_annotation_with_another_value_leaves_the_deployment_alone_but_in_sight(platform, server):
    server.put(*APPS, a_deployment("off", autoscale="false"))
    until(lambda: "off.shop" in platform.scales(), "it is found")
    assert platform.scales()["off.shop"].enabled is False
    assert platform.scales()["web.shop"].enabled is True


@pytest.mark.parametrize("text", ["many", "-1", "0", "1.5", ""])
def test_a_bound_that_is_no_count_is_an_error_of_this_deployment_alone(platform, server, text):
    server.put(*APPS, a_deployment("odd", autoscale="true", max_replicas=text))
    until(lambda: "odd.shop" in platform.scales(), "it is found")
    scales = platform.scales()
    assert str(scales["odd.shop"]) == (
        f"odd.shop: annotation tailbound.dev/max-replicas: {text!r} must be a whole number of at least 1"
    )
    assert scales["web.shop"].desired == 2


def test_the_configured_cap_is_part_of_every_scale(connect):
    assert connect(cap=4).scales()["web.shop"].cap == 4


def test_the_count_is_written_to_the_scale_subresource_and_nothing_else(platform, server):
    platform.scales()
    server.requests.clear()
    platform.set_scale("web.shop", 5)
    assert replicas(server) == 5
    assert [request.partition("?")[0] for request in server.requests if "PATCH" in request] == [SCALE]


def test_a_count_that_was_written_is_what_the_next_reconcile_sees(platform, server):
    assert platform.scales()["web.shop"].desired == 2
    # However late the watch is.
    server.faults["GET"] = doubles.status(503)
    server.end_watches()
    platform.set_scale("web.shop", 5)
    assert platform.scales()["web.shop"].desired == 5
    server.faults.clear()
    server.put(*APPS, {**server.get(*WEB), "spec": {"replicas": 1}})
    until(lambda: platform.scales()["web.shop"].desired == 1, "what somebody else has written since counts")


def test_a_status_that_changed_in_between_is_no_reason_to_give_up(platform, server):
    platform.scales()
    server.faults["GET /apis/apps/v1/deployments"] = doubles.status(503)
    server.end_watches()
    until(lambda: not server.watches("deployments"), "it sees nothing new")
    document = server.get(*WEB)
    server.put(*APPS, {**document, "status": {**document["status"], "conditions": []}})
    platform.set_scale("web.shop", 4)
    assert replicas(server) == 4


def test_a_status_that_changes_again_while_it_is_read_anew_is_no_reason_to_give_up_either(platform, server):
    # While pods come up a real one changes some ten times a second.
    platform.scales()
    times = []

    def overtaken(handler):
        times.append(handler.path)
        if len(times) == 3:
            server.faults.clear()
        document = server.get(*WEB)
        generation = document["status"].get("observedGeneration", 0) + 1
        server.put(*APPS, {**document, "status": {**document["status"], "observedGeneration": generation}})
        return doubles.status(409)(handler)

    server.faults[SCALE] = overtaken
    platform.set_scale("web.shop", 4)
    assert replicas(server) == 4


def test_a_count_that_somebody_else_has_changed_since_the_decision_is_left_as_it_is(platform, server):
    platform.scales()
    server.faults["GET /apis/apps/v1/deployments"] = doubles.status(503)
    server.end_watches()
    until(lambda: not server.watches("deployments"), "it sees nothing new")
    server.put(*APPS, {**server.get(*WEB), "spec": {"replicas": 7}})
    with pytest.raises(
        PlatformError, match=r"web\.shop: another writer has set 7 replicas where there were 2"
    ):
        platform.set_scale("web.shop", 4)
    assert replicas(server) == 7


def test_nothing_is_scaled_to_zero(platform, server):
    platform.scales()
    with pytest.raises(PlatformError, match="nothing wakes a Deployment from zero"):
        platform.set_scale("web.shop", 0)
    assert replicas(server) == 2


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_is_asked_again_and_scaled_once(platform, server, code):
    platform.scales()

    def once(handler):
        del server.faults[SCALE]
        doubles.status(code)(handler)

    server.faults[SCALE] = once
    platform.set_scale("web.shop", 3)
    assert replicas(server) == 3
    assert server.get(*WEB)["metadata"]["generation"] == 2


def test_a_role_that_lacks_the_rule_is_named(platform, server):
    platform.scales()
    server.faults[SCALE] = doubles.status(403, b'{"reason": "Forbidden", "message": "cannot patch"}')
    with pytest.raises(PlatformError, match="status 403 Forbidden: cannot patch"):
        platform.set_scale("web.shop", 3)


def test_a_deployment_that_is_gone_or_never_was_ours_is_gone(platform, server):
    assert "web.shop" in platform.scales()
    for name in ("nope.shop", "other.shop"):
        with pytest.raises(FunctionGoneError, match=r"404|no annotation tailbound\.dev/autoscale"):
            platform.scale(name)
        with pytest.raises(FunctionGoneError, match="no such Deployment"):
            platform.set_scale(name, 2)
    server.faults["GET /apis/apps/v1/deployments"] = doubles.panic
    server.end_watches()
    server.remove(*WEB)
    until(lambda: not server.watches("deployments"), "it sees nothing new")
    with pytest.raises(FunctionGoneError):
        platform.set_scale("web.shop", 3)


def test_while_the_list_fails_each_can_be_read_alone_and_scaled(platform, server):
    platform.scales()
    server.faults["GET /apis/apps/v1/deployments"] = doubles.panic
    server.end_watches()

    def blind():
        try:
            platform.scales()
        except UnreachableError:
            return True
        return False

    until(blind, "the list is not current")
    assert platform.scale("web.shop") == Scale(desired=2, available=2, min=2, max=9)
    platform.set_scale("web.shop", 4)
    assert replicas(server) == 4


def test_another_autoscaler_on_the_same_deployment_is_named_and_nothing_is_decided(platform, server):
    platform.scales()
    server.put(*AUTOSCALERS, hpa("for-a-set", "web", "StatefulSet"))
    server.put(*AUTOSCALERS, hpa())
    until(lambda: isinstance(platform.scales()["web.shop"], PlatformError), "it is noticed")
    scales = platform.scales()
    assert "web.shop: HorizontalPodAutoscaler web-hpa scales it too" in str(scales["web.shop"])
    assert scales["api.bank"] == Scale(desired=3, available=3)
    with pytest.raises(PlatformError, match="web-hpa"):
        platform.scale("web.shop")
    server.remove(*AUTOSCALERS, "shop", "web-hpa")
    until(lambda: platform.scales()["web.shop"] == Scale(2, 2, 2, 9), "it is gone")


def test_without_the_right_to_see_other_autoscalers_there_are_none(connect, server, caplog):
    server.faults["GET /apis/autoscaling"] = doubles.status(403)
    assert connect().scales()["web.shop"].desired == 2
    assert "/apis/autoscaling/v2/horizontalpodautoscalers: status 403" in caplog.text


# Events


def events(server):
    return server.all("v1", "events")


def test_each_scaling_is_an_event_on_the_deployment(platform, server):
    platform.scales()
    platform.set_scale("web.shop", 5)
    until(lambda: events(server), "there is an event")
    (event,) = events(server)
    document = server.get(*WEB)
    assert event["involvedObject"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "namespace": "shop",
        "name": "web",
        "uid": document["metadata"]["uid"],
    }
    assert (event["reason"], event["message"], event["count"], event["type"]) == (
        *("ScaledUp", "Scaled from 2 to 5 replicas"),
        *(1, "Normal"),
    )
    assert event["metadata"]["namespace"] == "shop"


def test_the_same_thing_again_counts_up_the_event_that_is_there(platform, server):
    platform.scales()
    for _ in range(3):
        platform.set_scale("web.shop", 3)
        platform.set_scale("web.shop", 2)
    until(lambda: [each["count"] for each in events(server)] == [3, 3], "two events, thrice each")
    assert {each["reason"] for each in events(server)} == {"ScaledUp", "ScaledDown"}


def test_an_event_that_has_been_deleted_is_written_anew(platform, server):
    platform.scales()
    platform.set_scale("web.shop", 3)
    until(lambda: events(server), "there is an event")
    server.remove("v1", "events", "shop", events(server)[0]["metadata"]["name"])
    platform.set_scale("web.shop", 2)
    platform.set_scale("web.shop", 3)
    until(lambda: {each["reason"] for each in events(server)} == {"ScaledUp", "ScaledDown"}, "both are there")


def test_events_that_cannot_be_written_stop_nothing_and_are_complained_of_once(platform, server, caplog):
    platform.scales()
    server.faults["POST /api/v1/namespaces/shop/events"] = doubles.status(403)
    for count in (3, 4, 5):
        platform.set_scale("web.shop", count)
    assert replicas(server) == 5
    until(lambda: "events are lost, scaling goes on" in caplog.text, "it is complained of")
    platform.close()
    assert caplog.text.count("events are lost") == 1


@pytest.mark.e2e
def test_a_write_that_was_held_up_by_the_network_does_nothing_once_another_has_written(server, connect):
    with a_freezing_proxy(server.address) as proxy:
        old, new = connect(proxy.address, timeout=0.5), connect()
        until(lambda: "web.shop" in old.scales(), "the old one knows it")
        new.scales()
        proxy.freeze()
        with pytest.raises(PlatformError):
            old.set_scale("web.shop", 9)
        new.set_scale("web.shop", 3)
        before = len(server.calls)
        proxy.thaw()
        until(
            lambda: any(call.resource == "deployments/scale" for call in server.calls[before:]),
            "what was held up arrives",
        )
        assert replicas(server) == 3
