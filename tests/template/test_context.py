import re
from pathlib import Path, PurePosixPath

import pytest
import yaml

from batching_watchdog.config import DESCRIPTIONS
from template.faas_cli import ignored, pull_template, send_to_builder, shrinkwrap

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
    (template / "batching-watchdog/batching_watchdog/_speedups.cpython-312-x86_64-linux-gnu.so").touch()
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
        "batching-watchdog/batching_watchdog/_speedups.c",
        "batching-watchdog/batching_watchdog/_speedups.pyi",
        "batching-watchdog/batching_watchdog/py.typed",
        "batching-watchdog/pyproject.toml",
        "function/data/table.csv",
        "function/handler.py",
        "function/handler_test.py",
        "function/requirements.txt",
        "function/weights.bin",
    }


def test_links_have_become_what_they_point_to(context):
    assert not [path for path in context.rglob("*") if path.is_symlink()]
    assert (TEMPLATE / "batching-watchdog").is_symlink()


def test_the_users_files_lie_over_the_starters(context):
    assert (context / "function/handler.py").read_text() == "# the user's handler.py\n"
    starter = (TEMPLATE / "function/requirements.txt").read_text()
    assert (context / "function/requirements.txt").read_text() == starter


def test_the_watchdogs_folder_has_no_way_back_into_the_template():
    links = [path for path in (ROOT / "batching-watchdog").rglob("*") if path.is_symlink()]
    assert not links


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("meta.json", True),
        ("function/meta.json", False),
        ("function/x/__pycache__/a.txt", True),
        ("__pycache__", True),
        ("batching-watchdog/README.md", False),
        ("README.md", True),
        ("function/a.pyc", True),
        ("watchdog/lib/a.so", True),
        ("watchdog/lib/deep/a.so", False),
        ("function/a.so", False),
    ],
)
def test_dockerignore_patterns_are_read_as_docker_reads_them(path, hidden):
    patterns = ["meta.json", "README.md", "**/__pycache__", "**/*.pyc", "watchdog/lib/*.so"]
    assert ignored(PurePosixPath(path), patterns) == hidden


def test_the_template_sets_no_fprocess_which_faas_cli_would_send_with_every_deployment():
    assert "fprocess" not in SETTINGS


def test_the_template_is_called_what_its_folder_is_in_lower_case_for_faas_cli_lowers_it():
    assert SETTINGS["language"] == TEMPLATE.name == TEMPLATE.name.lower()
    assert SETTINGS["handler_folder"] == "function"
    assert (TEMPLATE / "function/handler.py").is_file()


def test_the_template_has_no_build_options_which_faas_cli_would_put_among_the_packages_that_ship():
    assert "build_options" not in SETTINGS


def test_the_readmes_settings_and_defaults_are_the_watchdogs():
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", (TEMPLATE / "README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 8
    for name, default in rows:
        assert DESCRIPTIONS[name].endswith(f"[{default}]"), name
