import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.local.errors import InvalidRequestError
from tailbound_lab.local.specs import (
    FunctionSpec,
    parse_delete,
    parse_deployment,
    parse_scale,
    parse_secret_name,
    split_name,
)

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
    assert (status["name"], status["replicas"], status["availableReplicas"]) == ("f", 2, 1)


@given(body=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_anything_that_is_not_an_object_is_refused_in_words(body):
    for parse in (parse_deployment, parse_scale, parse_delete, parse_secret_name):
        with pytest.raises(InvalidRequestError, match="must be a JSON object"):
            parse(body)


@given(
    body=st.dictionaries(
        st.sampled_from(["service", "image", "namespace", "envVars", "labels", "secrets", "limits"]),
        st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text()) | texts,
    )
)
def test_a_deployment_is_either_read_or_refused(body):
    try:
        spec = parse_deployment(body)
    except InvalidRequestError:
        return
    assert spec.name == body["service"]


@pytest.mark.parametrize(
    "name", ["", "Upper", "under_score", "-edge", "edge-", "a.b", "a" * 64, "../up", "ü"]
)
def test_a_name_that_is_no_dns_label_is_refused(name):
    with pytest.raises(InvalidRequestError, match="service"):
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
    assert FunctionSpec("f", "i").initial_replicas == 1


@pytest.mark.parametrize("replicas", [-1, 1.5, "3", True, None, 10_001])
def test_a_scale_request_out_of_range_is_refused(replicas):
    with pytest.raises(InvalidRequestError, match="replicas"):
        parse_scale({"serviceName": "f", "replicas": replicas})


def test_zero_replicas_must_be_said_and_are_never_assumed():
    assert parse_scale({"serviceName": "f", "replicas": 0}) == (0, "")
    with pytest.raises(InvalidRequestError, match="replicas: None"):
        parse_scale({"serviceName": "f"})


@given(name=names, namespace=names)
def test_a_path_name_is_split_at_its_last_dot(name, namespace):
    assert split_name(f"{name}.{namespace}") == (name, namespace)
    assert split_name(f"a.{name}.{namespace}") == (f"a.{name}", namespace)
    assert split_name(name) == (name, "")
