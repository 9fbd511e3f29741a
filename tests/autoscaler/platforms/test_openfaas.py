"""The OpenFaaS platform against a gateway over real sockets, well and unwell."""

import base64
import math
import threading

import pytest

from slo_autoscaler.errors import FunctionGoneError, PlatformError, ScaleChangedError, UnreadableError
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.keys import (
    OPENFAAS_HOLD,
    OPENFAAS_MAX,
    OPENFAAS_MIN,
    OPENFAAS_MODE,
    OPENFAAS_SCHEDULE,
    OPENFAAS_ZERO,
    OPENFAAS_ZERO_DURATION,
)
from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.platforms.openfaas import BasicAuth, OpenFaas, Settings
from slo_autoscaler.settings.schedule import hold_of, schedule_of
from support import doubles
from support.doubles import Function, a_gateway, decide
from tailbound_lab.local.ports import free_ports


@pytest.fixture
def gateway():
    labels = {OPENFAAS_MIN: "2", OPENFAAS_MAX: "9"}
    with a_gateway(vision=Function(3, labels, available=1), text=Function(1, namespace="staging")) as double:
        yield double


@pytest.fixture
def connect(gateway, keep):
    """Make platforms on the gateway."""
    usual = {"gateway_url": gateway.url, "timeout": 10.0}
    return lambda **settings: keep(OpenFaas(Settings(**{**usual, **settings}), Alone()))


@pytest.fixture
def platform(connect):
    return connect()


def test_scales_are_those_of_the_configured_namespaces(connect, gateway):
    assert connect(namespaces=("openfaas-fn", "staging")).scales() == {
        "vision.openfaas-fn": Scale(desired=3, available=1, min=2, max=9),
        "text.staging": Scale(desired=1, available=1),
    }
    assert list(connect().scales()) == ["vision.openfaas-fn"]
    gateway.functions["vision"].replicas = gateway.functions["vision"].available = 0  # Go leaves these out
    assert connect(cap=5).scale("vision.openfaas-fn") == Scale(desired=0, available=0, min=2, max=9, cap=5)


@pytest.mark.parametrize(
    ("labels", "field", "value"),
    [
        ({OPENFAAS_MAX: "9"}, "max", 9),
        ({OPENFAAS_MAX: ""}, "max", None),
        ({OPENFAAS_MODE: "off"}, "mode", "off"),
        ({OPENFAAS_MODE: "recommend"}, "mode", "recommend"),
        # By these OpenFaaS Pro lets a function go.
        ({}, "zero_after", None),
        ({OPENFAAS_ZERO: "true", OPENFAAS_ZERO_DURATION: "5m"}, "zero_after", 300.0),
        ({OPENFAAS_ZERO: "true"}, "zero_after", 900.0),
        ({OPENFAAS_ZERO: "true", OPENFAAS_ZERO_DURATION: "soon"}, "zero_after", 900.0),
        ({OPENFAAS_ZERO: "false", OPENFAAS_ZERO_DURATION: "5m"}, "zero_after", math.inf),
    ],
)
def test_labels_of_a_function_are_honored(platform, gateway, labels, field, value):
    gateway.functions["vision"].labels = labels
    assert getattr(platform.scale("vision.openfaas-fn"), field) == value


def test_scale_has_schedule_and_hold_of_the_annotations(platform, gateway):
    texts = (
        '[{"cron": "0 8 * * *", "duration": "2h", "min_replicas": 4}]',
        '{"until": "2026-12-01T09:00:00Z"}',
    )
    gateway.functions["vision"].annotations = dict(
        zip((OPENFAAS_SCHEDULE, OPENFAAS_HOLD), texts, strict=True)
    )
    scale = platform.scale("vision.openfaas-fn")
    assert (scale.schedule, scale.hold) == (schedule_of(texts[0]), hold_of(texts[1]))


@pytest.mark.parametrize("key", [OPENFAAS_SCHEDULE, OPENFAAS_HOLD])
def test_scale_wrong_annotation_is_an_error_that_names_it(platform, gateway, key):
    gateway.functions["vision"].annotations = {key: "1"}
    with pytest.raises(PlatformError, match=rf"vision.openfaas-fn: annotation {key}: 1 must be"):
        platform.scale("vision.openfaas-fn")


def test_a_mode_that_is_none_is_an_error_of_this_function_alone(connect, gateway):
    gateway.functions["vision"].labels = {OPENFAAS_MODE: "Off"}
    scales = connect(namespaces=("openfaas-fn", "staging")).scales()
    error = str(scales["vision.openfaas-fn"])
    assert "vision.openfaas-fn: label com.tailbound.mode: 'Off' must be one of active, recommend" in error
    assert isinstance(scales["text.staging"], Scale)


def test_a_count_is_asked_for_with_name_and_namespace(platform, gateway):
    decide(platform, "vision.openfaas-fn", 4)
    assert gateway.posted == [{"serviceName": "vision", "replicas": 4, "namespace": "openfaas-fn"}]
    assert platform.scale("vision.openfaas-fn").desired == 4


def test_a_decision_on_a_count_that_another_writer_has_changed_is_left_out(platform, gateway):
    seen = platform.scales()["vision.openfaas-fn"]
    gateway.functions["vision"].replicas = 7
    with pytest.raises(ScaleChangedError, match="another writer has set the count to 7 where it was 3"):
        platform.set_scale("vision.openfaas-fn", 4, seen)
    assert gateway.posted == []


def test_set_scale_after_a_stale_read_of_an_own_write_is_no_conflict(platform, gateway):
    seen = platform.scale("vision.openfaas-fn")
    for replicas in (5, 6):
        platform.set_scale("vision.openfaas-fn", replicas, seen)
    assert gateway.functions["vision"].replicas == 6


def test_set_scale_own_write_that_was_reported_excuses_no_other_writer(platform, gateway):
    decide(platform, "vision.openfaas-fn", 5)
    platform.scales()
    gateway.functions["vision"].replicas = 7
    seen = platform.scale("vision.openfaas-fn")
    gateway.functions["vision"].replicas = 5
    with pytest.raises(ScaleChangedError):
        platform.set_scale("vision.openfaas-fn", 8, seen)


# Credentials


def test_basic_auth_comes_from_the_files_and_its_lack_is_named(connect, gateway, tmp_path):
    gateway.auth = "Basic " + base64.b64encode(b"admin:secret").decode()
    files = {"user_file": tmp_path / "user", "password_file": tmp_path / "password"}
    for path, text in zip(files.values(), ("admin\n", "secret\n"), strict=True):
        path.write_text(text)
    auth = BasicAuth(**{key: str(path) for key, path in files.items()})
    assert list(connect(basic_auth=auth).scales()) == ["vision.openfaas-fn"]
    with pytest.raises(PlatformError, match=r"401, check platform\.basic_auth"):
        connect().scales()


# Faults


def test_scales_redirect_is_an_error_and_is_not_followed(platform, gateway):
    gateway.faults["GET /system/functions"] = doubles.status(302, Location=f"{gateway.url}/elsewhere")
    with pytest.raises(PlatformError, match="status 302"):
        platform.scales()
    assert "GET /elsewhere" not in gateway.requests


def test_scales_unreadable_function_is_an_error_with_its_count(platform, gateway):
    gateway.faults["GET"] = doubles.status(200, b'[{"name": "x", "replicas": 3, "availableReplicas": -1}]')
    error = platform.scales()["x.openfaas-fn"]
    assert isinstance(error, UnreadableError)
    assert error.replicas == 3


def test_scales_function_is_in_the_namespace_that_the_gateway_names(platform, gateway):
    gateway.faults["GET"] = doubles.status(200, b'[{"name": "x", "namespace": "other", "replicas": 3}]')
    assert set(platform.scales()) == {"x.other"}


def one(platform):
    return platform.scale("vision.openfaas-fn")


def every(platform):
    return platform.scales()


def write(platform):
    decide(platform, "vision.openfaas-fn", 2)


@pytest.mark.parametrize(
    ("call", "fault", "what"),
    [
        *((write, doubles.status(code), f"status {code}: 'injected'") for code in (301, 400, 429, 500, 503)),
        (one, doubles.status(404), "404"),
        (one, doubles.garbage, "not JSON: '<html>"),
        (one, doubles.status(200, b"[]"), "the status is not an object"),
        (one, doubles.status(200, b'{"replicas": -1}'), "replicas -1 must be a whole number"),
        (one, doubles.status(200, b'{"replicas": true}'), "replicas True must be a whole number"),
        (one, doubles.status(200, b'{"availableReplicas": "2"}'), "availableReplicas '2' must be a whole"),
        (every, doubles.status(200, b"null"), "not a list"),
        (every, doubles.status(200, b"[{}]"), "no name"),
        (every, doubles.half(b'[{"name": "vision", "replicas": 1}]'), "ChunkedEncodingError|ConnectionError"),
    ],
)
def test_a_bad_answer_is_an_error_that_says_what_is_wrong(platform, gateway, call, fault, what):
    gateway.faults["GET"] = gateway.faults["POST"] = fault
    with pytest.raises(FunctionGoneError if what == "404" else PlatformError, match=what):
        call(platform)


def test_a_gateway_that_does_not_answer_or_is_not_there_is_given_up(connect, gateway):
    released = threading.Event()
    gateway.faults["GET"] = doubles.hang(released)
    with pytest.raises(PlatformError, match="ReadTimeout"):
        connect(timeout=0.1).scales()
    released.set()
    with pytest.raises(PlatformError, match="ConnectionError"):
        connect(gateway_url=f"http://127.0.0.1:{free_ports(1)[0]}").scales()
