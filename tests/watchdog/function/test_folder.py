"""Which settings a function runs with on its author's machine."""

from pathlib import Path

import pytest

from batching_watchdog.errors import StackError
from batching_watchdog.function.folder import find

STACK = """
functions:
  other:
    handler: ./other
    environment:
      slo_latency: 9s
  mine:
    handler: ./mine
    environment:
      slo_latency: 200ms
      workers: "3"
      own: value
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "handler.py").touch()
    (tmp_path / "stack.yml").write_text(STACK)
    return tmp_path / "mine"


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ({}, {}, ("200ms", "3", "stack.yml")),
        ({}, {"slo_latency": "300ms"}, ("300ms", "3", "the environment")),
        ({"slo_latency": "400ms", "workers": "1"}, {"slo_latency": "300ms"}, ("400ms", "1", "--slo-latency")),
    ],
)
def test_settings_come_from_the_options_then_the_environment_then_the_stack_file(
    folder, monkeypatch, flags, environ, expected
):
    monkeypatch.chdir(folder.parent)
    found = find(Path("mine"), flags, environ)
    assert (found.environ["slo_latency"], found.environ["workers"], found.slo_from) == expected
    assert found.environ["own"] == "value"
    assert found.environ["function_path"] == str(folder)


def test_folder_that_faas_cli_has_built_is_tried_by_its_function(tmp_path):
    (tmp_path / "function").mkdir()
    (tmp_path / "function" / "handler.py").touch()
    assert find(tmp_path, {}, {}).folder == tmp_path / "function"


def test_environment_file_is_read_beside_the_stack_file(folder):
    stack = folder.parent / "stack.yml"
    stack.write_text("functions: {mine: {handler: ./mine, environment_file: [more.yml]}}")
    (folder.parent / "more.yml").write_text("environment: {slo_latency: 70ms}")
    assert find(folder, {}, {}).environ["slo_latency"] == "70ms"


def test_secrets_of_this_machine_are_files_beside_the_stack_file(folder):
    stack = folder.parent / "stack.yml"
    stack.write_text("functions: {mine: {handler: ./mine, secrets: [api-key]}}")
    with pytest.raises(StackError, match="api-key"):
        find(folder, {}, {})
    (folder.parent / ".secrets").mkdir()
    (folder.parent / ".secrets" / "api-key").write_text("hidden")
    mounted = Path(find(folder, {}, {}).environ["secret_mount_path"])
    assert (mounted / "api-key").read_text() == "hidden"


def test_stack_file_of_another_tool_is_passed_over(folder):
    (folder.parent / "stack.yml").write_text("services: {web: {image: nginx}}")
    assert find(folder, {}, {}).slo_from == ""


def test_stack_file_that_cannot_be_read_is_named(folder):
    (folder.parent / "stack.yml").write_text("functions: {mine: {handler: ./mine")
    with pytest.raises(StackError, match="not YAML"):
        find(folder, {}, {})
