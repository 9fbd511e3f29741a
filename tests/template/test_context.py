import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.faas_cli import pull_template, send_to_builder, shrinkwrap

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template/python3-inference"
SETTINGS = yaml.safe_load((TEMPLATE / "template.yml").read_text())


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    """The context of a function ``new`` made and changed, with what a working copy has lying about."""
    folder = tmp_path_factory.mktemp("context")
    template = pull_template(TEMPLATE, folder / "template")
    handler = folder / "my-model"
    handler.mkdir()
    for name in ("handler.py", "weights.bin", ".coverage"):
        (handler / name).write_text(f"# the user's {name}\n")
    for name in ("build", "template", "data", "__pycache__", ".pytest_cache", ".venv"):
        (handler / name).mkdir()
        (handler / name / "file.pyc").touch()
    (handler / "data/table.csv").touch()
    (template / "batching-watchdog/batching_watchdog/__pycache__").mkdir(exist_ok=True)
    (template / "batching-watchdog/batching_watchdog/__pycache__/app.cpython-312.pyc").touch()
    return send_to_builder(shrinkwrap(template, handler, folder / "build"), folder / "sent")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_builder_gets_the_watchdog_and_the_function_and_nothing_else(context):
    distribution = ROOT / "batching-watchdog"
    modules = {f"batching-watchdog/{path.relative_to(distribution)}" for path in distribution.rglob("*.py")}
    assert files(context) == modules | {
        "batching-watchdog/README.md",
        "batching-watchdog/batching_watchdog/py.typed",
        "batching-watchdog/build.lock",
        "batching-watchdog/otel.lock",
        "batching-watchdog/pyproject.toml",
        "batching-watchdog/requirements.lock",
        "function/__init__.py",
        "function/data/table.csv",
        "function/handler.py",
        "function/handler_test.py",
        "function/requirements.txt",
        "function/weights.bin",
    }


def test_the_users_files_lie_over_the_starters_and_links_have_become_what_they_point_to(context):
    assert (context / "function/handler.py").read_text() == "# the user's handler.py\n"
    starter = (TEMPLATE / "function/requirements.txt").read_text()
    assert (context / "function/requirements.txt").read_text() == starter
    assert (TEMPLATE / "batching-watchdog").is_symlink()
    assert not [path for path in context.rglob("*") if path.is_symlink()]
    # A way back into the template would have no end.
    assert not [path for path in (ROOT / "batching-watchdog").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("imports", ["import handler", "from . import handler"])
def test_tests_of_a_function_find_its_handler_in_the_image(tmp_path, imports):
    handler = tmp_path / "my-model"
    handler.mkdir()
    (handler / "handler.py").write_text("ANSWER = 42\n")
    (handler / "handler_test.py").write_text(f"{imports}\ndef test(): assert handler.ANSWER == 42\n")
    built = shrinkwrap(pull_template(TEMPLATE, tmp_path / "template"), handler, tmp_path / "build")
    (command,) = re.findall(r"\{ (.* pytest .*?) \|\|", (TEMPLATE / "Dockerfile").read_text())
    done = subprocess.run(["sh", "-c", command.replace("python", sys.executable)], cwd=built, check=False)
    assert done.returncode == 0


def test_template_sets_nothing_that_faas_cli_would_turn_against_the_function():
    # It would send fprocess with every deployment, and put build_options among the packages that ship.
    assert not {"fprocess", "build_options"} & SETTINGS.keys()
    # It lowers the name of the language.
    assert SETTINGS["language"] == TEMPLATE.name == TEMPLATE.name.lower()
