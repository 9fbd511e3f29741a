"""The docstring of a package is the map of its modules."""

import ast
import re

import pytest

from support.pages import ROOT

SHIPPED = ("batching-watchdog/batching_watchdog", "autoscaler/slo_autoscaler")
PACKAGES = sorted(
    path for top in (*SHIPPED, "lab/tailbound_lab") for path in (ROOT / top).rglob("__init__.py")
)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_map_of_a_package_has_its_modules_and_no_other(package):
    folder = package.parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    text = ast.get_docstring(ast.parse(package.read_text())) or ""
    assert set(re.findall(r"^- ``(\w+)``", text, re.MULTILINE)) <= modules | {"__main__"}
    if str(package).startswith(tuple(str(ROOT / top) for top in SHIPPED)):
        assert modules <= set(re.findall(r"``(\w+)``", text))
