"""Each line of the threat model names tests that exist."""

import re

from support.pages import ROOT

ROW = re.compile(r"^\|(?!---| who ).*$", re.MULTILINE)


def test_every_line_of_the_threat_model_names_tests_that_exist():
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    _, _, model = (ROOT / "SECURITY.md").read_text().partition("## Threat model")
    rows = ROW.findall(model)
    assert rows
    for row in rows:
        named = re.findall(r"`(test_\w+(?:\.py)?)`", row)
        assert named, row
        for name in named:
            assert name in files or f"def {name}(" in code, name
