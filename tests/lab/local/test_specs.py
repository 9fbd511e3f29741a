"""Deployment bodies and stack files: what is read, and what is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.local.errors import InvalidRequestError, StackError
from tailbound_lab.local.specs import (
    FunctionSpec,
    parse_delete,
    parse_deployment,
    parse_scale,
    parse_secret_name,
    split_name,
)
from tailbound_lab.local.stack import parse_stack, substitute

texts = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)


@given(labels=texts, annotations=texts, environment=texts)
def test_labels_annotations_and_environment_come_back_unchanged(labels, annotations, environment):
    spec = parse_deployment(
        {"service": "f", "image": "i", "labels": labels, "annotations": annotations, "envVars": environment}
    )
    status = spec.status(replicas=2, available=1, invocations=3, created_at="2026-01-01T00:00:00+00:00")
    assert (status["labels"], status["annotations"]) == (labels, annotations)
    assert status.get("envVars", {}) == environment


@given(body=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_a_body_that_is_no_object_is_refused(body):
    for parse in (parse_deployment, parse_scale, parse_delete, parse_secret_name):
        with pytest.raises(InvalidRequestError):
            parse(body)


@given(
    body=st.dictionaries(
        st.sampled_from(["service", "image", "namespace", "envVars", "labels", "secrets", "limits"]),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text()) | texts,
    )
)
def test_a_deployment_is_either_read_or_refused(body):
    with contextlib.suppress(InvalidRequestError):
        assert parse_deployment(body).name == body["service"]


@pytest.mark.parametrize("name", ["", "Upper", "under_score", "-edge", "edge-", "a.b", "a" * 64, "../a", "ü"])
def test_a_name_that_is_no_dns_label_is_refused(name):
    with pytest.raises(InvalidRequestError):
        parse_deployment({"service": name, "image": "i"})


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a" * 63])
def test_a_dns_label_is_accepted(name):
    assert parse_deployment({"service": name, "image": "i"}).name == name


@pytest.mark.parametrize("secret", ["../../etc/passwd", "a/b", ".hidden", ""])
def test_a_secret_name_cannot_leave_its_folder(secret):
    with pytest.raises(InvalidRequestError):
        parse_deployment({"service": "f", "image": "i", "secrets": [secret]})
    with pytest.raises(InvalidRequestError):
        parse_secret_name({"name": secret})


def test_the_namespace_of_the_query_wins_over_the_body():
    body = {"service": "f", "image": "i", "namespace": "body"}
    assert parse_deployment(body, "query").namespace == "query"
    assert parse_deployment(body).namespace == "body"
    assert parse_deployment({"service": "f", "image": "i"}).namespace == "openfaas-fn"


@pytest.mark.parametrize(("label", "replicas"), [("3", 3), ("0", 1), ("-2", 1), ("many", 1), ("", 1)])
def test_the_min_label_gives_the_initial_replicas(label, replicas):
    assert FunctionSpec("f", "i", labels={"com.openfaas.scale.min": label}).initial_replicas == replicas


@pytest.mark.parametrize("replicas", [-1, 1.5, "3", True, None, 10_001])
def test_a_count_out_of_range_is_refused(replicas):
    with pytest.raises(InvalidRequestError):
        parse_scale({"serviceName": "f", "replicas": replicas})


def test_zero_replicas_must_be_said_and_are_never_assumed():
    assert parse_scale({"serviceName": "f", "replicas": 0}) == (0, "")
    with pytest.raises(InvalidRequestError):
        parse_scale({"serviceName": "f"})


@given(name=names, namespace=names)
def test_a_path_name_is_split_at_its_last_dot(name, namespace):
    assert split_name(f"a.{name}.{namespace}") == (f"a.{name}", namespace)
    assert split_name(name) == (name, "")


STACK = """
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
    fprocess: python index.py
    readonly_root_filesystem: true
  vision:
    handler: ./functions/vision
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


def test_a_stacks_values_stay_the_text_that_they_were():
    tabular, vision = read(STACK, {"WHO": "me"})
    common = {"slo_latency": "100ms", "slo_objective": "0.990"}
    assert tabular.handler == "./functions/tabular"
    assert tabular.spec == FunctionSpec(
        "tabular",
        "local/tabular:1.10",
        env_process="python index.py",
        env_vars=common | {"verbose": "off", "added": "me"},
        labels={"com.openfaas.scale.min": "2"},
        read_only_root_filesystem=True,
    )
    assert vision.spec == FunctionSpec(
        "vision",
        "vision:latest",
        "staging",
        env_vars=common | {"verbose": "true", "workers": "1"},
        annotations={"topic": "a"},
        secrets=("token",),
        limits={"memory": "128Mi"},
    )


@given(value=st.text(st.characters(blacklist_characters="$"), min_size=1), other=st.text())
def test_a_set_variable_wins_over_its_default_and_an_empty_one_does_not(value, other):
    assert substitute("a ${V:-d} b", {"V": value, "W": other}, "x") == f"a {value} b"
    assert substitute("a ${V:-d} b", {"V": ""}, "x") == "a d b"
    assert substitute("${V}", {}, "x") == ""
    assert substitute("$V $ {V} 5$", {"V": value}, "x") == "$V $ {V} 5$"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("functions: {", "stack.yml"),
        ("[]", "stack.yml"),
        ("functions: {}", "functions"),
        ("functions: {f: }", "f:"),
        ("functions: {f: {image: i}}", "f: handler"),
        ("functions: {Bad_Name: {handler: h}}", "Bad_Name"),
        ("functions: {f: {handler: h, environment: [a]}}", "f: environment"),
        ("functions: {f: {handler: h, secrets: {a: b}}}", "f: secrets"),
        ("functions: {f: {handler: ${A^^}}}", "${A^^}"),
        ("functions: {f: {handler: h, environment_file: [missing.yml]}}", "environment_file: missing.yml"),
    ],
)
def test_a_mistake_in_a_stack_is_named_with_its_place(text, place):
    with pytest.raises(StackError) as raised:
        read(text, read_file=no_file)
    assert place in str(raised.value)
    assert "\n" not in str(raised.value)
