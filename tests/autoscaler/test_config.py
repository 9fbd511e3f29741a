"""Configurations are read with their defaults, and each fault is named with key, value and rule."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from slo_autoscaler.config import Config
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.settings.fields import REMOVED, parse_duration
from slo_autoscaler.settings.spec import Slo
from support.builders import BOMB, MINIMAL

KUBERNETES = """
platform: {kind: kubernetes}
prometheus: {url: "http://prometheus:9090"}
"""
ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy/helm/slo-autoscaler/files"


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.parse(text, "as.yaml")
    return caught.value.lines


@pytest.mark.parametrize(
    "path",
    [
        FILES / "openfaas/config.yaml",
        ROOT / "lab/autoscaler.yaml",
        FILES / "kubernetes/config.yaml",
    ],
)
def test_the_configurations_that_we_ship_are_valid(path):
    Config.parse(path.read_text(), path)


def test_a_function_inherits_what_it_does_not_override_and_flags_win_over_the_file():
    text = """
platform: {timeout: 1s}
defaults: {tolerance: 0.2, scale_down: {cooldown: 5s, max_step: 3}}
functions: {a.fn: {policy: proportional, scale_down: {cooldown: 1m}}}
"""
    overrides = {"platform.gateway_url": "http://g:1", "prometheus.url": "http://p:2/", "web.port": "0"}
    config = Config.parse(text, "as.yaml", overrides)
    assert (config.platform.gateway_url, config.platform.timeout) == ("http://g:1", 1.0)
    assert (config.prometheus.url, config.web.port) == ("http://p:2", 0)
    spec, other = config.target("a.fn"), config.target("b.fn")
    assert (spec.policy, spec.tolerance, other.policy) == ("proportional", 0.2, "slo")
    assert (spec.scale_down.cooldown, spec.scale_down.max_step) == (60.0, 3)
    assert (other.scale_down.cooldown, other.timing.rate_lag) == (5.0, config.prometheus.rate_window / 2)
    # A gateway is overridden where there is one only.
    assert Config.parse(KUBERNETES, "as.yaml", overrides).platform.kind == "kubernetes"


@pytest.mark.parametrize(
    ("text", "named", "others"),
    [
        (
            "functions: {a.fn: {policy: proportional, signals: gateway, slo_latency: 1s}, b.fn: {}}",
            Slo(1.0, 0.99),
            None,
        ),
        (
            "defaults: {policy: proportional, signals: gateway, slo_latency: 500ms, slo_objective: 0.95}\n"
            "functions: {b.fn: {signals: watchdog, slo_latency: null, slo_objective: null}}",
            Slo(0.5, 0.95),
            Slo(0.5, 0.95),
        ),
    ],
)
def test_functions_without_a_watchdog_have_their_slo_here(text, named, others):
    slos = Config.parse(f"{MINIMAL}\n{text}", "as.yaml").gateway_slos()
    assert slos
    assert [slos.of(name) for name in ("a.fn", "b.fn", "c.fn")] == [named, None, others]
    assert not Config.parse(MINIMAL, "as.yaml").gateway_slos()


def test_further_metrics_are_the_functions_or_the_defaults():
    also = "[{name: queue, query: sum(depth), target: 10}]"
    text = f"{MINIMAL}defaults: {{also: {also}}}\nfunctions: {{a.fn: {{also: []}}, b.fn: {{}}}}\n"
    further = Config.parse(text, "as.yaml").further()
    assert further.of("a.fn") == ()
    assert further.of("b.fn") == further.of("c.fn") == further.others != ()
    assert further.queries == {"sum(depth)"}


def test_a_mode_is_the_functions_or_the_defaults_and_off_needs_no_quotes():
    text = MINIMAL + "defaults: {mode: shadow}\nfunctions: {a.fn: {mode: off}, b.fn: {priority: 2}}"
    modes = Config.parse(text, "as.yaml").modes()
    assert [modes.of(name, "label", None) for name in ("a.fn", "b.fn", "c.fn")] == ["off", "shadow", "shadow"]
    assert modes.of("a.fn", "label", "active") == "active"


WRONG = {
    MINIMAL: {
        **{f"interval: {value}": "interval: " for value in ("0", ".inf", "fast", "[1]", "true")},
        f"interval: {'x' * 500}": "interval: .{,180}$",
        "defaults: {policy: fast}": "defaults.policy: ",
        "defaults: {mode: standby}": "defaults.mode: ",
        "defaults: {signals: cpu}": "defaults.signals: ",
        "defaults: {slo_objective: 0.9}": "defaults.slo_objective: ",
        "defaults: {signals: gateway, slo_latency: 1s}": "defaults.signals: .*proportional.*capacity",
        "defaults: {policy: proportional, signals: gateway, slo_latency: 1s, slo_objective: 99}": (
            "defaults.slo_objective: "
        ),
        "defaults: {min_replicas: 7}": "defaults.max_replicas: ",
        "defaults: {utilization_target: 1.2}": "defaults.utilization_target: ",
        "defaults: {scale_up: {max_factor: 0.5}}": "defaults.scale_up.max_factor: ",
        "defaults: {timing: {max_age: 3}}": "defaults.timing: ",
        "defaults: {schedule: [{cron: 0 8 * *, duration: 1h, min_replicas: 2}]}": "defaults.schedule.0.c",
        "functions: {a.fn: {schedule: [{duration: 1h, max_replicas: 2}]}}": "functions.a.fn.schedule.0.cron",
        "functions: {a.fn: {schedule: 3}}": "functions.a.fn.schedule: 3 must be a list",
        "defaults: {schedule: [{cron: 0 8 * * *, duration: 1h, max_replicas: 2, timezon: UTC}]}": (
            "defaults.schedule.0.timezon: .*timezone"
        ),
        "defaults: {also: [{name: queue, query: q, target: 0}]}": "defaults.also.0.target: ",
        "defaults: {also: [{name: queue, target: 3}]}": "defaults.also.0.query: must be set",
        "defaults: {tolerence: 0.1}": "defaults.tolerence: .*tolerance",
        "functions: {a.fn: {policy: proportional, signals: gateway}}": "functions.a.fn.slo_latency: ",
        "functions: {a.fn: {slo_latency: 250ms}}": "functions.a.fn.slo_latency: ",
        "functions: {vision: {}}": "functions: ",
        "defaults: {group: gpu}": "defaults: group 'gpu' .*fleet.groups",
        "fleet: {groups: {big: 3}}\nfunctions: {a.fn: {group: gpu}}": "functions: a.fn: .*fleet.groups: big",
        "leader: {leese: {}}": "leader.leese: .*lease",
        "leader: {lease: {period: 3s}}": "leader.lease.period: .*name, namespace",
        "leader: {lease: {renew_interval: 6s}}": "leader.lease.renew_interval: ",
        "leader: {lease: {duration: 9}}": "leader: ",
        "web: {port: 70000}": "web.port: ",
        "web: {port: 8090, page_port: 8090}": "web.page_port: 8090 .*web.port",
        "web: {port: 8083}": "web.page_port: 8083 .*web.port",
        "web: {host: '::', port: 8083, page_host: '::1'}": "web.page_port: 8083 .*web.port",
        "web: {page_allowed_hosts: [status.example.org:8443]}": "web.page_allowed_hosts.0: .*port",
        "web: {page_allowed_hosts: [https://status.example.org]}": "web.page_allowed_hosts.0: .*scheme",
        "nonsense: 1": "nonsense: .*platform, prometheus, interval",
    },
    "platform: {gateway_url: http://g}\n": {
        "": "prometheus: ",
        "prometheus: {url: http://p, window: 10s}": "prometheus.window: .*prometheus.scrape_interval",
        "prometheus: {url: http://p, matchers: cluster}": "prometheus.matchers: .*mapping",
        "prometheus: {url: http://p, matchers: {cluster: 3}}": "prometheus.matchers: .*cluster must be text",
        "prometheus: {url: http://p, matchers: {'a-b': c}}": "prometheus.matchers: .*'a-b' must be the name",
        "prometheus: {url: http://p, max_age: 9.9s}": "prometheus.max_age: .*prometheus.scrape_interval, 10s",
        "prometheus: {url: http://p, scrape_interval: 15s, window: 60s}": "prometheus.max_age: .*30s",
        "prometheus: {url: http://p, basic_auth: {username: a}}": "prometheus.basic_auth.password_file: ",
        "prometheus: {url: http://p, basic_auth: {username: 'a:b', password_file: p}}": (
            "prometheus.basic_auth.username: "
        ),
        "prometheus: {url: http://p, bearer_token_file: t, basic_auth: {username: a, password_file: p}}": (
            "prometheus.basic_auth: .*bearer_token_file"
        ),
        "prometheus: {url: http://p, bearer_token: t}": "prometheus.bearer_token: .*bearer_token_file",
        "prometheus: {url: http://p, tls: {ca_file: c}}": "prometheus.tls: .*http://",
        "prometheus: {url: https://p, tls: {cert_file: c}}": "prometheus.tls.key_file: ",
    },
    "prometheus: {url: http://p}\n": {
        "platform: {}": "platform.gateway_url: ",
        "platform: {gateway_url: g}": "platform.gateway_url: ",
        "platform: {gateway_url: 'http://g:80800'}": "platform.gateway_url: ",
        "platform: {gateway_url: http://g, kind: nomad}": "platform.kind: ",
        "platform: {kind: kubernetes, gateway_url: http://g}": "platform.gateway_url: ",
        "platform: {kind: kubernetes, resink: 3}": "platform.resink: ",
        "platform: {kind: kubernetes, namespaces: []}": "platform.namespaces: ",
        "platform: {kind: knative, mode: kpa}": "platform.mode: ",
        "platform: {gateway_url: http://g, tls: {ca_file: c}}": "platform.tls: .*http://",
        "platform: {kind: kubernetes, tls: {ca_file: c}}": "platform.tls.ca_file: .*strict",
    },
    KUBERNETES: {
        # Nothing there wakes a function.
        "defaults: {scale_to_zero_after: 5m}": ".*scale_to_zero_after",
    },
    "": {
        "[1]": "must be a mapping",
        "a: [": "not YAML",
        "a: \x08": "not YAML",
        "a: &a {b: *a}": "not YAML",
    },
}
"""What stands before it -> a fault -> how its line goes on: the key, and which keys there are."""


@pytest.mark.parametrize("section", ["defaults", "fleet", "functions", "leader", "web"])
def test_section_whose_keys_are_all_comments_has_its_defaults(section):
    first = "platform: {gateway_url: http://g}\nprometheus: {url: http://p}\n"
    assert Config.parse(f"{first}{section}:\n  # key: value\n", "as.yaml") == Config.parse(first, "as.yaml")


@pytest.mark.parametrize(
    ("text", "line"), [(first + more, line) for first, each in WRONG.items() for more, line in each.items()]
)
def test_parse_one_fault_is_one_line_that_names_the_key(text, line):
    (told,) = faults(text)
    assert re.match(f"as.yaml: {line}", told)


@pytest.mark.parametrize(
    ("prometheus", "key"),
    [
        ("{url: 'http://me:s3cret@p'}", "prometheus.url"),
        ("{url: 'http://s3cret@p/?x=1'}", "prometheus.url"),
        ("{url: http://p, headers: {Authorization: Bearer s3cret}}", "prometheus.headers"),
        ("{url: http://p, headers: {X-Key: ['s3cret']}}", "prometheus.headers"),
        ('{url: http://p, headers: {X-Key: "s3cret\\nX-Other: 1"}}', "prometheus.headers"),
        ("{url: http://p, headers: {'X Key': s3cret}}", "prometheus.headers"),
        ("{url: http://p, headers: {X-Key: 's3crét'}}", "prometheus.headers"),
        ("{url: http://p, headers: [s3cret]}", "prometheus.headers"),
        ("{url: 'http://p/?token=s3cret'}", "prometheus.url"),
        ("{url: http://p, basic_auth: 'me:s3cret'}", "prometheus.basic_auth"),
        ('{url: http://p, headers: {X-Key: "s3cret}}', "not YAML"),
        ("{url: http://p, headers: {X-Key: 's3cret'}", "not YAML"),
        ("{url: http://p, headers: {X-Key: @s3cret}}", "not YAML"),
    ],
)
def test_parse_fault_of_a_value_that_may_be_secret_does_not_show_it(prometheus, key):
    (told,) = faults(f"platform: {{gateway_url: http://g}}\nprometheus: {prometheus}")
    assert told.startswith(f"as.yaml: {key}: ")
    assert "s3cr" not in told


def test_parse_several_faults_have_a_line_each_and_an_inherited_one_is_told_once():
    lines = faults(MINIMAL + "defaults: {tolerance: 3}\nfunctions: {a.fn: {min_samples: 0}}\nweb: {port: x}")
    places = {"web.port", "defaults.tolerance", "functions.a.fn.min_samples"}
    assert {line.split(": ")[1] for line in lines} == places
    assert faults("interval: 3\nweb: {port: 1, port: 2}")[0].startswith("as.yaml: web.port")


_leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_keys = st.sampled_from(
    [
        *("platform", "prometheus", "interval", "web", "defaults", "functions", "url", "gateway_url", "kind"),
        *("cap", "basic_auth", "namespaces", "window", "port", "scale_up", "scale_down", "max_step", "a.fn"),
        *("leader", "lease", "duration", "renew_interval", "mode"),
    ]
)
_trees = st.recursive(
    _leaves, lambda below: st.lists(below, max_size=2) | st.dictionaries(_keys | _leaves, below, max_size=4)
)


@example({"platform": {"\n": None}})
@example({"functions": {"mode": {"platform": None}}})
@given(st.dictionaries(_keys, _trees, max_size=5))
def test_any_document_is_a_configuration_or_a_config_error_in_single_lines(document):
    lines = ["as.yaml: "]
    try:
        Config.parse(yaml.safe_dump(document), "as.yaml")
    except ConfigError as error:
        lines = error.lines
    assert lines
    assert all("\n" not in line and line.startswith("as.yaml: ") for line in lines)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1m30s", 90.0), ("250ms", 0.25), ("1h", 3600.0), (".5s", 0.5), ("10", 10.0), ("1us", 1e-6)],
)
def test_durations_are_read_as_go_writes_them(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "a: &a {b: *a}"])
def test_config_of_aliases_that_explode_is_refused(text):
    (line,) = faults(text)
    assert line.startswith("as.yaml: not YAML: ")


def test_parse_key_that_was_removed_says_what_does_its_work():
    text = "platform: {kind: knative, mode: floor}\nprometheus: {url: 'http://p'}\n"
    with pytest.raises(ConfigError) as refused:
        Config.parse(text, "as.yaml")
    assert refused.value.lines == [f"as.yaml: platform.mode: {REMOVED['platform.mode']}"]
