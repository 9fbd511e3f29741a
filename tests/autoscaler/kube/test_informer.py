"""Informers on an API server over real sockets, well and unwell, and own writes laid over them."""

import threading
import time

import pytest

from autoscaler import doubles
from autoscaler.doubles import until
from autoscaler.freezing_proxy import a_freezing_proxy
from autoscaler.kube_server import a_deployment, a_kube_server
from slo_autoscaler.errors import ForbiddenError, UnreachableError
from slo_autoscaler.kube.client import KubeApi, Resource
from slo_autoscaler.kube.informer import Informer

DEPLOYMENTS = Resource("apps/v1", "deployments")
ALL = DEPLOYMENTS.path()
WEB, NEW, ODD, NOBODY = ("shop", "web"), ("shop", "new"), ("shop", "odd"), ("shop", "nobody")


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


@pytest.fixture
def watched(api):
    """Make informers, each closed at the end."""
    made = []

    def make(**changes):
        told = []
        settings = {"resync": 300.0, "changed": told.append, "watch_seconds": 10.0, **changes}
        each = Informer(api, DEPLOYMENTS, settings.pop("namespaces", None), replicas, **settings)
        each.told = told  # what has been told so far
        made.append(each)
        each.start()
        return each

    yield make
    for each in made:
        each.close()


def error_of(informer):
    """Why its last list or watch failed."""
    return informer._lists[None].error


def replicas(document):
    """Keep the count; Deployments named after nobody are not ours."""
    return None if document["metadata"]["name"] == "nobody" else document["spec"]["replicas"]


def put(server, name, count):
    server.put("apps/v1", "deployments", a_deployment(name, replicas=count))


def test_what_is_there_is_known_after_the_first_list(watched, server):
    put(server, "nobody", 1)
    each = watched()
    assert each.wait(10)
    assert each.items() == {WEB: 2}
    assert (each.get(WEB), each.get(NOBODY)) == (2, None)
    assert error_of(each) is None


def test_what_comes_changes_and_goes_is_told_of(watched, server):
    each = watched()
    each.wait(10)
    put(server, "new", 7)
    until(lambda: each.items() == {WEB: 2, NEW: 7}, "the new one is known")
    put(server, "web", 4)
    until(lambda: each.get(WEB) == 4, "the change is known")
    server.remove("apps/v1", "deployments", "shop", "new")
    until(lambda: each.items() == {WEB: 4}, "the removal is known")
    assert {WEB, NEW} == set(each.told)
    assert sum(request.startswith("GET") and "watch" not in request for request in server.requests) == 1


def test_one_namespace_may_be_watched_alone(api, server):
    server.put("apps/v1", "deployments", a_deployment("web", "other", 9))
    each = Informer(api, DEPLOYMENTS, ["other"], replicas, resync=300.0)
    each.start()
    assert each.wait(10)
    assert each.items() == {("other", "web"): 9}
    each.close()


def test_a_watch_that_breaks_off_goes_on_where_it_was_without_a_list(watched, server):
    each = watched()
    each.wait(10)
    until(server.watches, "it watches")
    server.end_watches()
    put(server, "web", 6)
    until(lambda: each.items() == {WEB: 6}, "what happened in between is known")
    assert sum("watch=" not in request for request in server.requests) == 1


def test_a_watch_that_ends_by_itself_is_followed_by_the_next(watched, server):
    server.longest_watch = 0.1
    each = watched()
    each.wait(10)
    until(lambda: sum("watch=" in request for request in server.requests) > 1, "a second watch")
    put(server, "web", 3)
    until(lambda: each.get(WEB) == 3, "the change is known")


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
    until(lambda: error_of(each) is None and each.items() == {WEB: 8}, "it has listed anew")
    assert ("shop", "gone") not in each.told


def test_bookmarks_keep_a_quiet_watch_from_growing_too_old(watched, server):
    server.bookmarks = 0.01
    each = watched()
    each.wait(10)
    until(server.watches, "it watches")
    # Other kinds move the version on, of which this watch hears by bookmarks alone.
    server.put("v1", "events", {"metadata": {"name": "e", "namespace": "shop"}})
    heard = time.monotonic()
    until(lambda: each._lists[None]._contact > heard + 0.05, "bookmarks are heard")
    server.compact()
    server.end_watches()
    until(lambda: sum("watch=" in request for request in server.requests) == 2, "it watches again")
    assert sum("watch=" not in request for request in server.requests) == 1


def test_everything_is_listed_again_now_and_then(watched, server):
    server.longest_watch = 0.1
    each = watched(resync=0.0)
    each.wait(10)
    until(lambda: sum("watch=" not in request for request in server.requests) > 1, "a second list")
    assert each.told == [WEB], "what has not changed is not told again"


def test_while_the_server_is_away_there_is_an_error_and_afterwards_what_is_new(watched, server, caplog):
    caplog.set_level("INFO")
    each = watched()
    each.wait(10)
    until(server.watches, "it watches")
    server.faults["GET"] = doubles.panic
    server.end_watches()
    until(lambda: error_of(each), "it has noticed")
    with pytest.raises(UnreachableError):
        each.items()
    with pytest.raises(UnreachableError):
        each.get(WEB)
    put(server, "web", 1)
    server.faults.clear()
    until(lambda: error_of(each) is None and each.items() == {WEB: 1}, "it is current again")
    assert f"watch {ALL}: recovered" in caplog.text


def test_a_server_that_is_busy_leaves_what_is_known(watched, server):
    each = watched()
    each.wait(10)
    until(server.watches, "it watches")
    server.faults["GET"] = doubles.status(429)
    server.end_watches()
    until(lambda: error_of(each), "it has noticed")
    assert each.items() == {WEB: 2}


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
        each = Informer(client, DEPLOYMENTS, None, replicas, resync=300.0, watch_seconds=0.2)
        each.start()
        until(lambda: each.wait(1), "it has listed")
        assert each.items() == {WEB: 2}
        proxy.freeze()

        def stale():
            try:
                each.items()
            except UnreachableError:
                return True
            return False

        until(stale, "the silence is noticed")
        proxy.thaw()
        until(lambda: error_of(each) is None and not stale(), "it is current again")
        each.close()
        client.close()


def test_an_object_that_makes_no_sense_spoils_no_other(watched, server, caplog):
    each = watched()
    each.wait(10)
    server.put("apps/v1", "deployments", {"metadata": {"name": "odd", "namespace": "shop"}})
    put(server, "web", 4)
    until(lambda: each.items() == {WEB: 4}, "it goes on")
    assert f"watch {ALL}: cannot read shop/odd" in caplog.text
    other = watched()
    assert other.wait(10), "nor when it is there from the beginning"
    assert other.items() == {WEB: 4}


def test_a_bug_that_a_change_brings_to_light_does_not_end_the_watch(watched, server):
    def fail(key):
        if key == ODD:
            raise KeyError(key)

    each = watched(changed=fail)
    each.wait(10)
    put(server, "odd", 1)
    until(lambda: error_of(each), "the fault is known")
    assert "KeyError: ('shop', 'odd')" in str(error_of(each))
    until(lambda: error_of(each) is None and each.items() == {WEB: 2, ODD: 1}, "it goes on")


def test_a_watch_that_waits_for_events_ends_when_it_is_told_to(watched, server):
    server.bookmarks = 60.0
    each = watched(watch_seconds=60.0)
    each.wait(10)
    until(server.watches, "it watches")
    each.close()
    assert not [thread for thread in threading.enumerate() if thread.name == f"watch {ALL}"]


# Own writes


def test_wrote_newer_than_the_watch_counts_until_the_watch_reports_it(watched, server):
    each = watched()
    each.wait(10)
    each.wrote(WEB, "1000000", 5)
    put(server, "web", 3)
    put(server, "new", 7)
    until(lambda: NEW in each.items(), "the watch has reported both")
    assert (each.get(WEB), each.items()) == (5, {WEB: 5, NEW: 7})
    server._version = 1_000_000 - 1
    put(server, "web", 4)
    until(lambda: each.get(WEB) == 4, "the watch has the version of the write")
    assert each.items() == {WEB: 4, NEW: 7}


@pytest.mark.parametrize("version", ["1", "the watch's", "x", ""])
def test_wrote_not_newer_than_the_watch_changes_nothing(watched, server, version):
    each = watched()
    each.wait(10)
    server_version = int(server.get("apps/v1", "deployments", *WEB)["metadata"]["resourceVersion"])
    each.wrote(WEB, str(server_version) if version == "the watch's" else version, 9)
    assert (each.get(WEB), each.items()) == (2, {WEB: 2})


def test_wrote_to_an_object_that_vanished_is_forgotten(watched, server):
    each = watched()
    each.wait(10)
    each.wrote(WEB, "1000000", 5)
    server.remove("apps/v1", "deployments", *WEB)
    until(lambda: each.items() == {}, "it is gone")
    put(server, "web", 3)
    until(lambda: each.get(WEB) == 3, "made anew, it has its own count")


def test_wrote_in_a_namespace_that_is_not_watched_is_ignored(watched):
    each = watched(namespaces=["other"])
    each.wait(10)
    each.wrote(WEB, "1000000", 5)
    assert (each.get(WEB), each.items()) == (None, {})


def test_items_skip_failed_leaves_out_a_namespace_whose_list_fails(watched, server):
    server.faults["GET /apis/apps/v1/namespaces/other"] = doubles.status(403)
    each = watched(namespaces=["other", "shop"])
    assert not each.wait(10)
    until(lambda: each._lists["shop"].error is None and each._lists["other"].error, "both were tried")
    assert each.items(skip_failed=True) == {WEB: 2}
    with pytest.raises(ForbiddenError):
        each.items()
