"""The client of the Kubernetes API and its watched lists, on a server over real sockets, well and unwell."""

import base64
import threading
import time

import pytest

from autoscaler import doubles
from autoscaler.doubles import free_port, until
from autoscaler.freezing_proxy import a_freezing_proxy
from autoscaler.kube_server import a_deployment, a_kube_server
from slo_autoscaler.errors import (
    ApiError,
    ConfigError,
    ConflictError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    PlatformError,
    UnreachableError,
)
from slo_autoscaler.kube import client as kube_api
from slo_autoscaler.kube.client import KubeApi, Resource, Watched

DEPLOYMENTS = Resource("apps/v1", "deployments")
EVENTS = Resource("v1", "events")
ALL = DEPLOYMENTS.path()
WEB = DEPLOYMENTS.path("shop", "web")


@pytest.fixture
def server():
    with a_kube_server() as double:
        double.put("apps/v1", "deployments", a_deployment())
        yield double


@pytest.fixture
def api(server, tmp_path):
    client = KubeApi(server.kubeconfig(tmp_path), timeout=2.0, connections=4)
    yield client
    client.close()


def impatient(server, tmp_path, address=None):
    return KubeApi(server.kubeconfig(tmp_path, address), timeout=0.3, connections=1)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (EVENTS.path(), "/api/v1/events"),
        (EVENTS.path("shop"), "/api/v1/namespaces/shop/events"),
        (ALL, "/apis/apps/v1/deployments"),
        (DEPLOYMENTS.path("shop", "web", "scale"), "/apis/apps/v1/namespaces/shop/deployments/web/scale"),
        (DEPLOYMENTS.path("a/b", "c d"), "/apis/apps/v1/namespaces/a%2Fb/deployments/c%20d"),
    ],
)
def test_a_kind_of_object_has_paths(path, text):
    assert path == text


def test_objects_are_read_created_changed_replaced_and_deleted(api, server):
    found = api.get(WEB)
    assert found["spec"]["replicas"] == 2
    assert api.patch(WEB, {"metadata": {"labels": {"a": "b"}}})["metadata"]["labels"] == {"a": "b"}
    found = api.get(WEB)
    found["spec"]["replicas"] = 3
    assert api.replace(WEB, found)["metadata"]["generation"] == 2
    created = api.create(DEPLOYMENTS.path("shop"), {"metadata": {"name": "other"}, "spec": {}})
    assert created["metadata"]["uid"]
    api.delete(WEB)
    assert [each["metadata"]["name"] for each in server.all("apps/v1", "deployments")] == ["other"]


def test_a_list_comes_in_pages_of_one_version(api, server, monkeypatch):
    monkeypatch.setattr(kube_api, "PAGE", 2)
    for i in range(4):
        server.put("apps/v1", "deployments", a_deployment(f"d{i}"))
    pages = list(api.pages(ALL))
    assert [len(items) for items, _ in pages] == [2, 2, 1]
    assert len({version for _, version in pages}) == 1


def test_a_list_of_nothing_is_empty(api):
    assert [items for items, _ in api.pages(EVENTS.path())] == [[]]


def test_a_stale_version_is_a_conflict(api):
    found = api.get(WEB)
    api.patch(WEB, {"spec": {"replicas": 5}})
    with pytest.raises(ConflictError, match="status 409 Conflict"):
        api.replace(WEB, found)
    with pytest.raises(ConflictError):
        api.patch(WEB, {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}})


def test_what_is_there_already_is_a_conflict_of_its_own_reason(api):
    with pytest.raises(ConflictError) as caught:
        api.create(DEPLOYMENTS.path("shop"), a_deployment())
    assert caught.value.reason == "AlreadyExists"


@pytest.mark.parametrize(
    ("code", "kind"),
    [(401, ForbiddenError), (403, ForbiddenError), (404, NotFoundError), (410, GoneError), (422, ApiError)],
)
def test_a_status_has_an_error_of_its_own_kind(api, server, code, kind):
    server.faults["GET"] = doubles.status(code, b'{"reason": "Because", "message": "of this"}')
    with pytest.raises(kind, match=f"GET {WEB}: status {code} Because: of this") as caught:
        api.get(WEB)
    assert caught.value.status == code


def test_a_role_that_does_not_allow_it_is_named(api, server):
    server.rules = []
    with pytest.raises(ForbiddenError, match="cannot get resource deployments"):
        api.get(WEB)


def test_an_error_that_is_no_status_object_is_shown(api, server):
    server.faults["GET"] = doubles.status(418, b"<html>teapot")
    with pytest.raises(ApiError, match="status 418 : <html>teapot"):
        api.get(WEB)


def then_well(server, prefix, fault, times):
    """Answer with a fault so many times, and then as ever."""
    left = [times]

    def once(handler):
        left[0] -= 1
        if left[0] == 0:
            server.faults.clear()
        fault(handler)

    server.faults[prefix] = once


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_is_asked_again(api, server, code):
    then_well(server, "GET", doubles.status(code), 2)
    assert api.get(WEB)["metadata"]["name"] == "web"
    assert len(server.requests) == 3


def test_the_time_that_a_server_asks_for_is_waited_or_the_error_comes_at_once(api, server):
    def later(handler):
        handler.send_response(429)
        handler.send_header("Retry-After", "60")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.faults["GET"] = later
    with pytest.raises(ApiError, match="status 429") as caught:
        api.get(WEB)
    assert caught.value.retry_after == 60.0
    assert len(server.requests) == 1


def test_one_that_stays_busy_is_an_error_when_the_time_is_up(server, tmp_path):
    server.faults["GET"] = doubles.status(503)
    client = impatient(server, tmp_path)
    with pytest.raises(ApiError, match="status 503"):
        client.get(WEB)
    assert len(server.requests) > 1
    client.close()


def test_who_is_not_patient_asks_once(api, server):
    server.faults["GET"] = doubles.status(503)
    with pytest.raises(ApiError):
        api.get(WEB, patient=False)
    assert len(server.requests) == 1


def test_a_creation_that_failed_inside_the_server_is_not_repeated(api, server):
    server.faults["POST"] = doubles.status(500)
    with pytest.raises(ApiError):
        api.create(EVENTS.path("shop"), {})
    assert len(server.requests) == 1


def test_a_call_may_have_less_time_than_the_others(api):
    with pytest.raises(UnreachableError, match="no time is left for it"):
        api.get(WEB, within=0.0)


@pytest.mark.parametrize("fault", [doubles.garbage, doubles.status(200, b"[]"), doubles.status(200, b"")])
def test_an_answer_that_makes_no_sense_is_an_error(api, server, fault):
    server.faults["GET"] = fault
    with pytest.raises(PlatformError, match=r"not JSON|not an object"):
        api.get(WEB)
    with pytest.raises(PlatformError):
        list(api.pages(ALL))


def test_a_list_that_is_none_is_an_error(api, server):
    server.faults["GET"] = doubles.status(200, b'{"items": 3}')
    with pytest.raises(PlatformError, match="not a list of objects"):
        list(api.pages(ALL))


@pytest.mark.parametrize("fault", [doubles.panic, doubles.half(b'{"metadata": {}}')])
def test_an_answer_that_breaks_off_is_unreachable_and_not_asked_for_again(api, server, fault):
    server.faults["GET"] = fault
    with pytest.raises(UnreachableError, match=f"GET {WEB}: "):
        api.get(WEB)
    assert len(server.requests) == 1


@pytest.mark.parametrize("slow", [doubles.hang, doubles.dribble])
def test_an_answer_that_does_not_come_or_does_not_end_has_a_timeout(server, tmp_path, slow):
    done = threading.Event()
    server.faults["GET"] = slow(done)
    client = impatient(server, tmp_path)
    with pytest.raises(UnreachableError):
        client.get(WEB)
    done.set()
    client.close()


def test_a_server_that_is_not_there_is_unreachable(server, tmp_path):
    client = impatient(server, tmp_path, f"127.0.0.1:{free_port()}")
    with pytest.raises(UnreachableError, match=r"GET .*: NewConnectionError: .*refused"):
        client.get(WEB)
    client.close()


def test_connections_are_kept_and_one_that_failed_is_not_used_again(api, server):
    for _ in range(3):
        api.get(WEB)
    server.faults["GET"] = doubles.half(b"{}")
    with pytest.raises(UnreachableError):
        api.get(WEB)
    server.faults.clear()
    assert api.get(WEB)["metadata"]["name"] == "web"


def test_the_token_of_the_kubeconfig_is_sent(server, tmp_path):
    server.token = "secret"
    client = KubeApi(server.kubeconfig(tmp_path), timeout=2.0, connections=1)
    assert client.get(WEB)
    client.close()
    server.token = "changed"
    client = KubeApi(server.kubeconfig(tmp_path), timeout=2.0, connections=1)
    server.token = "again"
    with pytest.raises(ForbiddenError, match="status 401"):
        client.get(WEB)
    client.close()


def test_the_namespace_is_that_of_the_kubeconfigs_context(api):
    assert api.namespace == "ours"


def test_a_context_that_is_not_in_the_kubeconfig_stops_the_start(server, tmp_path):
    with pytest.raises(ConfigError, match=r"platform\.kubeconfig: .*kubeconfig.*nope"):
        KubeApi(server.kubeconfig(tmp_path), "nope", timeout=1.0, connections=1)


@pytest.mark.parametrize("content", [None, "a: [", "3", "{}"])
def test_a_kubeconfig_that_is_none_stops_the_start(tmp_path, content):
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"platform\.kubeconfig: .*config: "):
        KubeApi(str(path), timeout=1.0, connections=1)


# Watched lists


@pytest.fixture
def watched(api):
    made = []

    def make(**changes):
        told = []
        settings = {"resync": 300.0, "changed": told.append, "watch_seconds": 10.0, **changes}
        each = Watched(settings.pop("api", api), ALL, replicas, **settings)
        each.told = told  # what has been told so far
        made.append(each)
        each.start()
        return each

    yield make
    for each in made:
        each.close()


def replicas(document):
    """Keep the count; Deployments named after nobody are not ours."""
    return None if document["metadata"]["name"] == "nobody" else document["spec"]["replicas"]


def put(server, name, count):
    server.put("apps/v1", "deployments", a_deployment(name, replicas=count))


def test_what_is_there_is_known_after_the_first_list(watched, server):
    put(server, "nobody", 1)
    each = watched()
    assert each.wait(10)
    assert each.items() == {"shop/web": 2}
    assert (each.get("shop/web"), each.get("shop/nobody")) == (2, None)
    assert each.error is None


def test_what_comes_changes_and_goes_is_told_of(watched, server):
    each = watched()
    each.wait(10)
    put(server, "new", 7)
    until(lambda: each.items() == {"shop/web": 2, "shop/new": 7}, "the new one is known")
    put(server, "web", 4)
    until(lambda: each.get("shop/web") == 4, "the change is known")
    server.remove("apps/v1", "deployments", "shop", "new")
    until(lambda: each.items() == {"shop/web": 4}, "the removal is known")
    assert {"shop/web", "shop/new"} == set(each.told)
    assert sum(request.startswith("GET") and "watch" not in request for request in server.requests) == 1


def test_one_namespace_may_be_watched_alone(api, server):
    server.put("apps/v1", "deployments", a_deployment("web", "other", 9))
    each = Watched(api, DEPLOYMENTS.path("other"), replicas, resync=300.0)
    each.start()
    assert each.wait(10)
    assert each.items() == {"other/web": 9}
    each.close()


def test_a_watch_that_breaks_off_goes_on_where_it_was_without_a_list(watched, server):
    each = watched()
    each.wait(10)
    until(server.watches, "it watches")
    server.end_watches()
    put(server, "web", 6)
    until(lambda: each.items() == {"shop/web": 6}, "what happened in between is known")
    assert sum("watch=" not in request for request in server.requests) == 1


def test_a_watch_that_ends_by_itself_is_followed_by_the_next(watched, server):
    server.longest_watch = 0.1
    each = watched()
    each.wait(10)
    until(lambda: sum("watch=" in request for request in server.requests) > 1, "a second watch")
    put(server, "web", 3)
    until(lambda: each.get("shop/web") == 3, "the change is known")


def test_a_version_that_is_too_old_is_followed_by_a_list(watched, server):
    each = watched()
    each.wait(10)
    until(server.watches, "it watches")
    server.faults["GET /apis/apps/v1/deployments"] = doubles.panic
    server.end_watches()
    until(lambda: not server.watches(), "it is broken off")
    put(server, "web", 8)
    put(server, "gone", 1)
    server.remove("apps/v1", "deployments", "shop", "gone")
    server.compact()
    server.faults.clear()
    until(lambda: each.error is None and each.items() == {"shop/web": 8}, "it has listed anew")
    assert "shop/gone" not in each.told


def test_bookmarks_keep_a_quiet_watch_from_growing_too_old(watched, server):
    server.bookmarks = 0.01
    each = watched()
    each.wait(10)
    until(server.watches, "it watches")
    # Other kinds move the version on, of which this watch hears by bookmarks alone.
    server.put("v1", "events", {"metadata": {"name": "e", "namespace": "shop"}})
    heard = time.monotonic()
    until(lambda: each.age < time.monotonic() - heard - 0.05, "bookmarks are heard")
    server.compact()
    server.end_watches()
    until(lambda: sum("watch=" in request for request in server.requests) == 2, "it watches again")
    assert sum("watch=" not in request for request in server.requests) == 1


def test_everything_is_listed_again_now_and_then(watched, server):
    server.longest_watch = 0.1
    each = watched(resync=0.0)
    each.wait(10)
    until(lambda: sum("watch=" not in request for request in server.requests) > 1, "a second list")
    assert each.told == ["shop/web"], "what has not changed is not told again"


def test_while_the_server_is_away_there_is_an_error_and_afterwards_what_is_new(watched, server, caplog):
    caplog.set_level("INFO")
    each = watched()
    each.wait(10)
    until(server.watches, "it watches")
    server.faults["GET"] = doubles.panic
    server.end_watches()
    until(lambda: each.error, "it has noticed")
    with pytest.raises(UnreachableError):
        each.items()
    with pytest.raises(UnreachableError):
        each.get("shop/web")
    put(server, "web", 1)
    server.faults.clear()
    until(lambda: each.error is None and each.items() == {"shop/web": 1}, "it is current again")
    assert f"watch {ALL}: works again" in caplog.text


def test_a_server_that_is_busy_leaves_what_is_known(watched, server):
    each = watched()
    each.wait(10)
    until(server.watches, "it watches")
    server.faults["GET"] = doubles.status(429)
    server.end_watches()
    until(lambda: each.error, "it has noticed")
    assert each.items() == {"shop/web": 2}


def test_before_the_first_list_nothing_is_known(watched, server):
    server.rules = []
    each = watched()
    assert not each.wait(10)
    with pytest.raises(ForbiddenError, match="cannot list resource deployments"):
        each.items()


def test_what_has_long_not_been_heard_of_is_not_current(server, tmp_path):
    with a_freezing_proxy(server.address) as proxy:
        client = KubeApi(server.kubeconfig(tmp_path, proxy.address), timeout=0.1, connections=2)
        server.longest_watch = 0.1
        each = Watched(client, ALL, replicas, resync=300.0, watch_seconds=0.2)
        each.start()
        until(lambda: each.wait(1), "it has listed")
        assert each.items() == {"shop/web": 2}
        proxy.freeze()

        def stale():
            try:
                each.items()
            except UnreachableError:
                return True
            return False

        until(stale, "the silence is noticed")
        proxy.thaw()
        until(lambda: each.error is None and not stale(), "it is current again")
        each.close()
        client.close()


def test_an_object_that_makes_no_sense_spoils_no_other(watched, server, caplog):
    each = watched()
    each.wait(10)
    server.put("apps/v1", "deployments", {"metadata": {"name": "odd", "namespace": "shop"}})
    put(server, "web", 4)
    until(lambda: each.items() == {"shop/web": 4}, "it goes on")
    assert f"watch {ALL}: shop/odd makes no sense" in caplog.text
    other = watched()
    assert other.wait(10), "nor when it is there from the beginning"
    assert other.items() == {"shop/web": 4}


def test_a_bug_that_a_change_brings_to_light_does_not_end_the_watch(watched, server):
    def fail(key):
        if key == "shop/odd":
            raise KeyError(key)

    each = watched(changed=fail)
    each.wait(10)
    put(server, "odd", 1)
    until(lambda: each.error, "the fault is known")
    assert "KeyError: 'shop/odd'" in str(each.error)
    until(lambda: each.error is None and each.items() == {"shop/web": 2, "shop/odd": 1}, "it goes on")


def test_a_watch_that_waits_for_events_ends_when_it_is_told_to(watched, server):
    server.bookmarks = 60.0
    each = watched(watch_seconds=60.0)
    each.wait(10)
    until(server.watches, "it watches")
    each.close()
    assert not [thread for thread in threading.enumerate() if thread.name == f"watch {ALL}"]


def test_events_that_make_no_sense_are_errors(api, server):
    def broken(handler):
        doubles.status(200, b'{"type": "ADDED"}\n')(handler)

    server.faults["GET"] = broken
    with pytest.raises(PlatformError, match="an event without an object"):
        list(api.watch(ALL, {}, 1.0))


def test_inside_a_pod_its_service_account_is_used(server, tmp_path, monkeypatch):
    # The package reads the files of the service account where Kubernetes mounts them.
    account = tmp_path / "account"
    account.mkdir()
    certificate = base64.b64encode(b"no certificate").decode()
    for name, text in (("token", "abc"), ("ca.crt", certificate), ("namespace", "mine\n")):
        (account / name).write_text(text)
    from kubernetes.config import incluster_config  # noqa: PLC0415

    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    monkeypatch.setattr(kube_api, "_NAMESPACE_FILE", account / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    configuration, namespace = kube_api._loaded(None, None)
    assert namespace == "mine"
    assert configuration.host == "https://127.0.0.1:443"
    assert "bearer abc" in {setting["value"] for setting in configuration.auth_settings().values()}
