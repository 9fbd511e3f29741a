import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.local.errors import StackError
from tailbound_lab.local.stack import parse_stack, substitute

STACK = """
version: 1.0
provider:
  name: openfaas
  gateway: http://127.0.0.1:8080
functions:
  tabular:
    lang: python3-inference
    handler: ./functions/tabular
    image: ${PREFIX:-local}/tabular:1.10
    environment: &common
      slo_latency: 100ms
      slo_objective: 0.990
      verbose: true
    environment_file: [extra.yml]
    labels:
      com.openfaas.scale.min: 2
  vision:
    handler: ./functions/vision
    image: vision
    namespace: staging
    environment:
      <<: *common
      workers: 1
    secrets: [token]
    annotations: {topic: a}
    limits: {memory: 128Mi}
"""


def no_file(path):
    raise FileNotFoundError(2, "No such file or directory")


def read(text, environ=None, read_file=lambda path: "environment: {verbose: off, added: ${WHO}}"):
    return parse_stack(text, environ or {}, read_file, "stack.yml")


def test_every_value_stays_the_text_that_it_was():
    tabular, vision = read(STACK, {"WHO": "me"})
    assert tabular.spec.image == "local/tabular:1.10"
    assert tabular.spec.env_vars == {
        "slo_latency": "100ms",
        "slo_objective": "0.990",
        "verbose": "off",
        "added": "me",
    }
    assert tabular.spec.labels == {"com.openfaas.scale.min": "2"}
    assert tabular.handler == "./functions/tabular"
    assert vision.spec.env_vars == {
        "slo_latency": "100ms",
        "slo_objective": "0.990",
        "verbose": "true",
        "workers": "1",
    }
    assert (vision.spec.namespace, vision.spec.secrets) == ("staging", ("token",))
    assert (vision.spec.annotations, vision.spec.limits) == ({"topic": "a"}, {"memory": "128Mi"})


def test_the_environment_fills_variables():
    assert read(STACK, {"PREFIX": "registry:5000/me"})[0].spec.image == "registry:5000/me/tabular:1.10"


@given(value=st.text(st.characters(blacklist_characters="$"), min_size=1), other=st.text())
def test_a_set_variable_wins_over_its_default_and_an_empty_one_does_not(value, other):
    assert substitute("a ${V:-d} b", {"V": value, "W": other}, "x") == f"a {value} b"
    assert substitute("a ${V:-d} b", {"V": ""}, "x") == "a d b"
    assert substitute("${V}", {}, "x") == ""
    assert substitute("$V $ {V} 5$", {"V": value}, "x") == "$V $ {V} 5$"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("functions: {", "stack.yml: not YAML"),
        ("[]", "stack.yml: must be a map"),
        ("functions: {}", "functions: must name at least one"),
        ("functions: {f: }", "f: must be a map"),
        ("functions: {f: {image: i}}", "f: handler: required"),
        ("functions: {Bad_Name: {handler: h}}", "service: 'Bad_Name' must be a DNS label"),
        ("functions: {f: {handler: h, environment: [a]}}", "f: environment: must be a map"),
        ("functions: {f: {handler: h, secrets: {a: b}}}", "f: secrets: must be a list"),
        ("functions: {f: {handler: ${A^^}}}", "only ${VAR} and ${VAR:-default}"),
        ("functions: {f: {handler: h, environment_file: [missing.yml]}}", "environment_file: missing.yml"),
    ],
)
def test_a_mistake_is_named_with_its_place(text, words):
    with pytest.raises(StackError) as raised:
        read(text, read_file=no_file)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_function_without_an_image_is_called_like_faas_cli_new_would():
    (function,) = read("functions: {f: {handler: h}}")
    assert function.spec.image == "f:latest"


def test_fprocess_and_the_read_only_root_are_passed_on():
    text = "functions: {f: {handler: h, fprocess: python index.py, readonly_root_filesystem: true}}"
    (function,) = read(text)
    assert function.spec.env_process == "python index.py"
    assert function.spec.read_only_root_filesystem
