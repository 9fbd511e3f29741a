import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.stack import StackFunction, functions

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12).filter(
    lambda name: name[0].isalpha()
)
VALUES = st.text(
    st.characters(codec="ascii", min_codepoint=32, max_codepoint=126, exclude_characters="${}'\"\\"),
    min_size=1,
    max_size=30,
).filter(lambda value: value == value.strip())
HANDLERS = NAMES.map(lambda name: f"./functions/{name}")


def dumped(entries: dict[str, tuple[str, dict[str, str]]]) -> str:
    """A stack file as people's tools write it."""
    made = {
        name: {
            "lang": "python3-inference",
            "handler": handler,
            "labels": {"com.openfaas.scale.max": "4", "slo_latency": "not this one"},
            "environment": environment,
            "limits": {"cpu": "2"},
        }
        for name, (handler, environment) in entries.items()
    }
    provider = {"name": "openfaas", "gateway": "http://127.0.0.1:8080"}
    return yaml.safe_dump({"provider": provider, "functions": made}, width=1000, sort_keys=False)


@given(st.dictionaries(NAMES, st.tuples(HANDLERS, st.dictionaries(NAMES, VALUES, max_size=4)), max_size=3))
def test_functions_of_a_dumped_stack_are_those_that_went_in(entries):
    assert functions(dumped(entries), {}) == {
        name: StackFunction(handler, environment) for name, (handler, environment) in entries.items()
    }


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text):
    functions(text, {})


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("slo_latency: 200ms", "200ms"),
        ("slo_latency:   200ms  # as promised", "200ms"),
        ('slo_latency: "200ms"', "200ms"),
        ("slo_latency: 'a # b'", "a # b"),
        ("slo_latency: a#b", "a#b"),
        ('"slo_latency": 200ms', "200ms"),
        ("slo_latency: ${TARGET:-200ms}", "200ms"),
        ("slo_latency: ${SET:-200ms}", "300ms"),
        ("slo_latency: ${SET}", "300ms"),
        ("slo_latency: http://a:80/b", "http://a:80/b"),
    ],
)
def test_value_is_what_yaml_and_faas_cli_take_it_for(line, value):
    text = f"functions:\n  f:\n    handler: ./f\n    environment:\n      # a: comment\n      {line}\n"
    assert functions(text, {"SET": "300ms"})["f"].environment == {"slo_latency": value}
