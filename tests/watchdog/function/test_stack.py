"""What the author's commands read of a stack file; tests/lab/local/test_specs.py has its mistakes."""

from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.errors import StackError
from batching_watchdog.function.stack import environment, functions, secrets

NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
VALUES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=30).filter(
    lambda value: "${" not in value
)


def environment_of(text, environ=None, files=None):
    (function,) = functions(text, environ or {}, "stack.yml").values()
    return environment(function, environ or {}, (files or {}).__getitem__, "stack.yml: f")


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_environment_of_a_dumped_stack_is_the_one_that_went_in(values):
    text = yaml.safe_dump({"functions": {"f": {"handler": "./f", "environment": values}}}, allow_unicode=True)
    assert environment_of(text) == values


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_as_a_whole(text):
    with suppress(StackError):
        assert isinstance(functions(text, {}, "stack.yml"), dict)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("200ms", "200ms"),
        ("200ms  # as promised", "200ms"),
        ('"200ms"', "200ms"),
        ("'a # b'", "a # b"),
        ("1.10", "1.10"),
        ("true", "true"),
        ("${TARGET:-200ms}", "200ms"),
        ("${SET:-200ms}", "300ms"),
        ("|\n        one\n        two", "one\ntwo\n"),
        (">-\n        one\n        two", "one two"),
        ("*shared", "shared by all"),
    ],
)
def test_value_is_what_yaml_and_faas_cli_take_it_for(written, value):
    text = f"x: &shared shared by all\nfunctions:\n  f:\n    environment:\n      a: {written}\n"
    assert environment_of(text, {"SET": "300ms"}) == {"a": value}


def test_anchor_and_file_give_what_the_function_has_not_and_the_file_wins():
    text = """
    x-common: &common {a: of the anchor, b: of the anchor, c: of the anchor}
    functions:
      f:
        environment:
          <<: *common
          b: of the function
          c: of the function
        environment_file: [more.yml]
    """
    files = {"more.yml": "environment: {c: of the file, d: '${SET}'}"}
    assert environment_of(text, {"SET": "of the shell"}, files) == {
        "a": "of the anchor", "b": "of the function", "c": "of the file", "d": "of the shell",
    }  # fmt: skip


def test_secrets_that_are_no_list_are_named():
    (function,) = functions("functions: {f: {secrets: one}}", {}, "stack.yml").values()
    with pytest.raises(StackError, match="secrets"):
        secrets(function, "f")
