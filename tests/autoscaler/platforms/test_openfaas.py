"""The OpenFaaS platform against a gateway over real sockets, well and unwell."""

import base64
import math
import threading

import pytest

from autoscaler import doubles
from autoscaler.doubles import Function, a_gateway, free_port
from slo_autoscaler.errors import ConfigError, FunctionGoneError, PlatformError
from slo_autoscaler.leader import Alone
from slo_autoscaler.model import Scale
from slo_autoscaler.platforms.openfaas import (
    AUTOSCALE_LABEL,
    MAX_LABEL,
    MIN_LABEL,
    ZERO_DURATION_LABEL,
    ZERO_LABEL,
    BasicAuth,
    OpenFaas,
)
from slo_autoscaler.platforms.openfaas import Settings as OpenFaasSettings


@pytest.fixture
def gateway():
    labels = {MIN_LABEL: "2", MAX_LABEL: "9"}
    with a_gateway(vision=Function(3, labels), text=Function(1, namespace="staging")) as double:
        yield double


@pytest.fixture
def platform(gateway):
    openfaas = OpenFaas(OpenFaasSettings(gateway_url=gateway.url, timeout=2.0), Alone())
    yield openfaas
    openfaas.close()


def test_functions_of_the_configured_namespaces_are_found(gateway):
    both = OpenFaas(OpenFaasSettings(gateway_url=gateway.url, namespaces=("openfaas-fn", "staging")), Alone())
    assert both.scales() == {
        "vision.openfaas-fn": Scale(desired=3, available=3, min=2, max=9),
        "text.staging": Scale(desired=1, available=1),
    }
    both.close()


def test_replicas_and_label_bounds_are_read(platform, gateway):
    gateway.functions["vision"].available = 1
    assert platform.scale("vision.openfaas-fn") == Scale(desired=3, available=1, min=2, max=9)


def test_counts_that_go_leaves_out_are_zero(platform, gateway):
    gateway.functions["vision"].replicas = 0
    scale = platform.scale("vision.openfaas-fn")
    assert (scale.desired, scale.available) == (0, 0)


def test_labels_that_are_no_numbers_fall_back_to_the_default(platform, gateway):
    gateway.functions["vision"].labels = {MIN_LABEL: "many", MAX_LABEL: "-1"}
    scale = platform.scale("vision.openfaas-fn")
    assert (scale.min, scale.max) == (None, None)


@pytest.mark.parametrize(
    ("label", "enabled"), [("false", False), ("False", False), ("true", True), ("", True)]
)
def test_a_label_opts_a_function_out(platform, gateway, label, enabled):
    gateway.functions["vision"].labels = {AUTOSCALE_LABEL: label}
    assert platform.scale("vision.openfaas-fn").enabled is enabled


@pytest.mark.parametrize(
    ("labels", "after"),
    [
        ({}, None),
        ({ZERO_DURATION_LABEL: "5m"}, None),
        ({ZERO_LABEL: "true", ZERO_DURATION_LABEL: "5m"}, 300.0),
        ({ZERO_LABEL: "true"}, 900.0),
        ({ZERO_LABEL: "true", ZERO_DURATION_LABEL: "soon"}, 900.0),
        ({ZERO_LABEL: "false", ZERO_DURATION_LABEL: "5m"}, math.inf),
    ],
)
def test_the_labels_by_which_pro_lets_a_function_go_are_honored(platform, gateway, labels, after):
    gateway.functions["vision"].labels = labels
    assert platform.scale("vision.openfaas-fn").zero_after == after


def test_the_configured_cap_is_part_of_every_scale(gateway):
    capped = OpenFaas(OpenFaasSettings(gateway_url=gateway.url, cap=5), Alone())
    assert capped.scale("vision.openfaas-fn").cap == 5
    capped.close()


def test_a_count_is_asked_for_with_name_and_namespace(platform, gateway):
    platform.set_scale("vision.openfaas-fn", 4)
    assert gateway.posted == [{"serviceName": "vision", "replicas": 4, "namespace": "openfaas-fn"}]
    assert platform.scale("vision.openfaas-fn").desired == 4


def test_basic_auth_comes_from_the_files(gateway, tmp_path):
    gateway.auth = "Basic " + base64.b64encode(b"admin:secret").decode()
    (tmp_path / "user").write_text("admin\n")
    (tmp_path / "password").write_text("secret\n")
    auth = BasicAuth(user_file=str(tmp_path / "user"), password_file=str(tmp_path / "password"))
    openfaas = OpenFaas(OpenFaasSettings(gateway_url=gateway.url, basic_auth=auth), Alone())
    assert list(openfaas.scales()) == ["vision.openfaas-fn"]
    openfaas.close()


def test_without_credentials_the_error_says_where_to_look(platform, gateway):
    gateway.auth = "Basic x"
    with pytest.raises(PlatformError, match=r"401, check platform\.basic_auth"):
        platform.scales()


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"\xff\xfe", "not text")])
def test_a_secret_that_cannot_be_read_stops_the_start(tmp_path, content, why):
    path = tmp_path / "user"
    if content is not None:
        path.write_bytes(content)
    auth = BasicAuth(user_file=str(path), password_file=str(path))
    with pytest.raises(
        ConfigError, match=rf"platform\.basic_auth\.user_file: .* must be a readable file: {why}"
    ):
        OpenFaas(OpenFaasSettings(gateway_url="http://127.0.0.1:1", basic_auth=auth), Alone())


def test_a_function_that_is_not_there_is_gone(platform):
    with pytest.raises(FunctionGoneError, match="404"):
        platform.scale("nope.openfaas-fn")


@pytest.mark.parametrize("code", [301, 400, 429, 500, 503])
def test_a_wrong_status_is_an_error_that_names_it(platform, gateway, code):
    gateway.faults["POST"] = doubles.status(code)
    with pytest.raises(PlatformError, match=f"status {code}: 'injected'"):
        platform.set_scale("vision.openfaas-fn", 2)


def test_an_answer_that_is_not_json_is_an_error(platform, gateway):
    gateway.faults["GET"] = doubles.garbage
    with pytest.raises(PlatformError, match="not JSON: '<html>"):
        platform.scale("vision.openfaas-fn")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"[]", "the status is not an object"),
        (b'{"replicas": -1}', "replicas -1 must be a whole number"),
        (b'{"replicas": true}', "replicas True must be a whole number"),
        (b'{"replicas": 1, "availableReplicas": "2"}', "availableReplicas '2' must be a whole number"),
    ],
)
def test_a_status_that_makes_no_sense_is_an_error(platform, gateway, body, what):
    gateway.faults["GET"] = doubles.status(200, body)
    with pytest.raises(PlatformError, match=what):
        platform.scale("vision.openfaas-fn")


@pytest.mark.parametrize(
    ("body", "what"), [(b"null", "not a list"), (b"[3]", "no name"), (b"[{}]", "no name")]
)
def test_a_list_that_makes_no_sense_is_an_error(platform, gateway, body, what):
    gateway.faults["GET"] = doubles.status(200, body)
    with pytest.raises(PlatformError, match=what):
        platform.scales()


def test_an_entry_that_makes_no_sense_spoils_no_other(platform, gateway):
    gateway.functions["text"] = Function(-2)
    scales = platform.scales()
    assert scales["vision.openfaas-fn"].desired == 3
    with pytest.raises(PlatformError, match=r"text\.openfaas-fn: replicas -2 must be a whole number"):
        raise scales["text.openfaas-fn"]


def test_half_an_answer_is_an_error(platform, gateway):
    gateway.faults["GET"] = doubles.half(b'[{"name": "vision", "replicas": 1}]')
    with pytest.raises(PlatformError, match=r"ChunkedEncodingError|ConnectionError"):
        platform.scales()


def test_a_gateway_that_panics_is_an_error(platform, gateway):
    gateway.faults["GET /system/functions"] = doubles.panic
    with pytest.raises(PlatformError, match="ConnectionError"):
        platform.scales()


def test_a_gateway_that_does_not_answer_is_given_up(gateway):
    released = threading.Event()
    gateway.faults["GET"] = doubles.hang(released)
    impatient = OpenFaas(OpenFaasSettings(gateway_url=gateway.url, timeout=0.1), Alone())
    with pytest.raises(PlatformError, match="ReadTimeout"):
        impatient.scales()
    released.set()
    impatient.close()


def test_a_gateway_that_is_not_there_is_an_error():
    openfaas = OpenFaas(OpenFaasSettings(gateway_url=f"http://127.0.0.1:{free_port()}"), Alone())
    with pytest.raises(PlatformError, match="ConnectionError"):
        openfaas.scales()
    openfaas.close()
