"""``kubectl slo``: its help, the port that it forwards, and what it completes. kubectl is a stand-in."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from slo_autoscaler.__main__ import PLUGIN, complete, kubectl
from slo_autoscaler.cli import KUBECTL
from slo_autoscaler.cli.explain import parser
from slo_autoscaler.show.web.listener import create_app
from slo_autoscaler.show.web.server import Server
from support.serving import NAME, Told, a_hold, a_page

STAND_IN = """#!{python}
import json, sys, time
known = json.load(open({file!r}))
words = sys.argv[1:]
if words[0] == "get" and known.get(words[1]) is None:
    sys.exit(words[1] + " is forbidden")
if words[0] == "get":
    print(json.dumps({{"items": known[words[1]]}}))
else:
    pod, port = words[-2:]
    print("Forwarding from 127.0.0.1:%s -> 1" % known["ports"][pod + port], flush=True)
    for number in range(100000):
        print("Handling connection", flush=True)
    time.sleep(60)
"""


def a_pod(name, namespace="openfaas", release="slo-autoscaler"):
    labels = {"app.kubernetes.io/instance": release}
    return {"metadata": {"name": name, "namespace": namespace, "labels": labels}}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Return a setter of what the stand-in knows."""
    program, file = tmp_path / "kubectl", tmp_path / "known"
    program.write_text(STAND_IN.format(python=sys.executable, file=str(file)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def have(**known):
        Path(file).write_text(json.dumps(known))

    have()
    return have


@pytest.fixture
def ports():
    """Return the ports of an autoscaler's pod, for the programs and for its page."""
    told = Told(a_hold())
    web = Server("web", create_app(CollectorRegistry(), lambda: True, told, {}.get), "127.0.0.1", 0)
    web.start()
    with a_page(told) as page:
        yield {"pod/a:metrics": web.port, "pod/a:8083": page.rpartition(":")[2]}
    web.stop()


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_plugin_alone_shows_its_own_commands(words, capsys):
    assert kubectl(words) == 0
    out = capsys.readouterr().out
    assert all(f"  {word} " in out for word in PLUGIN)
    assert "  run " not in out


def test_plugin_does_not_run_an_autoscaler(capsys):
    assert kubectl(["run"]) == 2
    assert "'run'" in capsys.readouterr().err


def test_plugin_help_of_a_command_has_the_plugins_name(capsys):
    with pytest.raises(SystemExit) as ended:
        kubectl(["explain", "--help"])
    assert ended.value.code == 0
    assert "usage: kubectl slo explain" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["status"], ["explain", "vision"]])
def test_plugin_forwards_a_port_of_the_only_autoscaler(words, cluster, ports, capsys):
    cluster(pods=[a_pod("a")], ports=ports)
    assert kubectl(words) == 0
    assert NAME in capsys.readouterr().out


def test_plugin_asks_the_leader_of_several(cluster, ports, capsys):
    leases = [{"spec": {"holderIdentity": "a_1234"}}, {"spec": {}}]
    cluster(pods=[a_pod("b"), a_pod("a")], leases=leases, ports=ports)
    assert kubectl(["explain", "vision"]) == 0


def test_plugin_that_watches_asks_again_until_it_reaches_an_autoscaler(cluster, ports, monkeypatch, capsys):
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        cluster(pods=[a_pod("a")], ports=ports)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    cluster(pods=[], ports=ports)
    monkeypatch.setattr("slo_autoscaler.cli.status.time", SimpleNamespace(sleep=pause))
    assert kubectl(["status", "--watch"]) == 0
    told = capsys.readouterr()
    assert "no pod with" in told.err
    assert NAME in told.out


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({}, "pods is forbidden"),
        ({"pods": []}, "no pod with"),
        ({"pods": [a_pod("a"), a_pod("a", "shop")]}, "openfaas/slo-autoscaler, shop/slo-autoscaler"),
        ({"pods": [a_pod("a")], "ports": {}}, "KeyError"),
    ],
)
def test_plugin_that_reaches_no_autoscaler_is_status_1_and_says_why(known, told, cluster, capsys):
    cluster(**known)
    assert kubectl(["status"]) == 1
    err = capsys.readouterr().err
    assert told in err


def completed(words, capsys):
    assert complete(words) == 0
    *found, directive = capsys.readouterr().out.splitlines()
    assert directive == ":4"
    return [line.partition("\t")[0] for line in found]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([""], list(PLUGIN)),
        (["ex"], ["explain"]),
        (["stauts", ""], []),
        (["explain", "vi"], [NAME]),
        (["explain", "x"], []),
        (["explain", "--la"], ["--last"]),
    ],
)
def test_completion_is_of_commands_functions_and_flags(words, found, cluster, ports, capsys):
    cluster(pods=[a_pod("a")], ports=ports)
    assert completed(words, capsys) == found


def test_completion_without_an_autoscaler_is_empty(cluster, capsys):
    assert completed(["hold", ""], capsys) == []


def test_completion_knows_every_flag(capsys):
    flags = completed(["explain", "--"], capsys)
    assert all(flag in parser(KUBECTL).format_help() for flag in flags)
    assert {"--autoscaler", "--url", "--config", "--log", "--last", "--namespace"} == set(flags)
