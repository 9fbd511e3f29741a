"""What the documentation shows as code exists.

Targets of make, options, files and names in them, configuration keys, variables, metrics, alerts.
"""

import ast
import functools
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batching_watchdog.config import DESCRIPTIONS
from docs import generate_reference as reference
from support.exposed import exposed, recorded, rules
from support.pages import NAMES, ROOT, blocks, inline, lines_of_code
from support.promtool import complaints_about, needs_promtool
from tailbound_lab.bench import __main__ as bench
from tailbound_lab.demo import __main__ as demo

CURRENT = [name for name in NAMES if name != "CHANGELOG.md"]
"""The changelog names what is gone."""
TARGET = re.compile(r"(?:^|[\s(])make ([a-z][a-z-]*)\b")
PATH = re.compile(
    r"(?<![\w./-])(?:autoscaler|batching-watchdog|deploy|docs|functions|lab|template|tests)/[\w./-]*"
)
SOURCE = re.compile(r"(?<![\w./-])((?:[\w-]+/)*[a-z_]\w*[a-z0-9_]\.(?:py|c|js))\b(?::([\w.]+))?")
"""A source file by the end of its path, which a name in it may follow."""
METRIC = re.compile(
    r"(?<![\w./-])(?P<name>(?:slo_autoscaler|watchdog)_\w*[a-z0-9]|slo_requests\w*|(?:slo|function_name\w*):[a-z][\w:]*\w)"
    r"(?P<family>:?\{|_\*|:\*)?"
)
ENDS = {"|", "&", "&&", ";", ">", "<", "||"}
BEGINNINGS = ENDS | {"--", "$", "exec"}
"""After these a word is a program (or after a variable that is set for it)."""
NOT_THERE = {"deploy/slo-autoscaler"}
"""A Deployment, not a file."""


@functools.cache
def helps() -> dict[str, str]:
    return {
        **reference.helps(),
        "python -m tailbound_lab.demo": reference.help_of(demo.main),
        "python -m tailbound_lab.bench": reference.help_of(bench.main),
        **{
            f"python -m tailbound_lab.bench {word}": reference.help_of(bench.main, word)
            for word in bench.COMMANDS
        },
    }


@functools.cache
def keys() -> frozenset[str]:
    values = yaml.safe_load((ROOT / "deploy/helm/slo-autoscaler/values.yaml").read_text())
    configured = reference.keys()
    return frozenset({*configured, *dotted(values), *(f"config.{key}" for key in configured)})


@functools.cache
def sources() -> dict[str, Path]:
    """Every file by its path from the root."""
    left_out = {".git", ".venv", "build", "node_modules"}
    return {
        f"/{path.relative_to(ROOT)}": path
        for path in ROOT.rglob("*.*")
        if not left_out & set(path.relative_to(ROOT).parts)
    }


@functools.cache
def metrics() -> frozenset[str]:
    families = {
        family.name + ("_total" if family.type == "counter" else "") for family in reference.families()
    }
    return frozenset(exposed() | recorded() | families)


def source_exists(path: str, name: str | None) -> bool:
    found = [file for known, file in sources().items() if known.endswith(f"/{path}")]
    words = [set(re.findall(r"\w+", file.read_text())) for file in found]
    return any(name is None or set(name.split(".")) <= each for each in words)


def metric_exists(name: str, family: str | None) -> bool:
    """Whether it is exposed or recorded; with windows in braces or a star, whether any begins so."""
    return any(known.startswith(name) for known in metrics()) if family else name in metrics()


def unknown(text: str) -> Iterator[str]:
    """The names in a page that nothing has."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines_of_code(text):
        yield from (f"make {each}" for each in TARGET.findall(line) if each not in targets)
        yield from (each for each in PATH.findall(line) if not (ROOT / each.rstrip(".")).exists())
        yield from (
            each[0] for each in METRIC.finditer(line) if not metric_exists(each["name"], each["family"])
        )
        for program, words in commands(line):
            options = (word.partition("=")[0] for word in words if word.startswith("--"))
            yield from (each for each in options if not re.search(rf"{each}\b(?!-)", helps()[program]))
    for code in inline(text):
        yield from (each[0] for each in SOURCE.finditer(code) if not source_exists(each[1], each[2]))
    for block in blocks(text):
        if block.language == "yaml":
            for document in yaml.safe_load_all(block.text):
                yield from (key for key in keys_of(document) if key not in keys())
                yield from (name for name in environments(document) if name not in DESCRIPTIONS)


def commands(line: str) -> Iterator[tuple[str, list[str]]]:
    """(program as in the reference, its words) of each command of ours in a line of shell."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose, or a quote that is closed in another line
        return
    for index, word in enumerate(words):
        for variable, module in (("BENCH_ARGS=", "bench"), ("DEMO_ARGS=", "demo")):
            if word.startswith(variable):
                yield from commands(f"python -m tailbound_lab.{module} {word.removeprefix(variable)}")
        before = words[index - 1] if index else ";"
        if before not in BEGINNINGS and "=" not in before:
            continue
        name, rest = word.rpartition("bin/")[2], words[index + 1 :]
        if name == "python" and rest[:1] == ["-m"] and len(rest) > 1:
            name, rest = f"python -m {rest[1]}", rest[2:]
        if rest and f"{name} {rest[0]}" in helps():
            name, rest = f"{name} {rest[0]}", rest[1:]
        if name in helps():
            end = next((place for place, each in enumerate(rest) if each in ENDS), len(rest))
            yield name, rest[:end]


def keys_of(document: Any) -> set[str]:
    """The dotted keys of a piece of YAML, if it is one of the autoscaler's configuration."""
    if not isinstance(document, dict) or not {"platform", "prometheus", "defaults"} & document.keys():
        return set()
    return set(dotted({key: value for key, value in document.items() if key != "functions"}))


def dotted(document: Any, prefix: str = "") -> Iterator[str]:
    for key, value in document.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict) and key not in {"headers", "matchers"}:  # their names are others'
            yield from dotted(value, f"{prefix}{key}.")


def environments(document: Any) -> Iterator[str]:
    """The variables under each ``environment``."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from value if key == "environment" and isinstance(value, dict) else environments(value)
    elif isinstance(document, list):
        for value in document:
            yield from environments(value)


@pytest.mark.parametrize("page", CURRENT)
def test_page_names_only_what_exists(page):
    ours = {name for name in unknown((ROOT / page).read_text()) if not name.startswith("OTEL_")}
    assert ours - NOT_THERE == set()


@pytest.mark.parametrize(
    "wrong",
    [
        *("`make nothing`", "`deploy/nothing.yml`", "`nothing.py`", "`shell.py:Shell.nothing`"),
        *("`slo_autoscaler_nothing_total`", "`slo:nothing:ratio`", "`watchdog_nothing_*`"),
        "```sh\nPATH=x .venv/bin/slo-autoscaler explain vision --nothing | tail --lines 3\n```\n",
        "```yaml\ndefaults: {scale_up: {step: 1}}\n```\n",
        "```yaml\nenvironment: {slo_latency: 1s, nothing: 1}\n```\n",
    ],
)
def test_name_that_nothing_has_is_found(wrong):
    assert len(list(unknown(wrong))) == 1


@pytest.mark.parametrize("page", NAMES)
def test_blocks_of_a_page_parse(page):
    for block in blocks((ROOT / page).read_text()):
        if block.language == "python":
            compile(block.text, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if block.language == "sh":
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)


@needs_promtool
def test_queries_of_pages_are_promql(tmp_path):
    texts = [(ROOT / page).read_text() for page in NAMES]
    queries = [block.text for text in texts for block in blocks(text) if block.language == "promql"]
    assert queries
    assert complaints_about(queries, tmp_path) == ""


def test_runbook_has_every_alert():
    text = (ROOT / "docs/howto/runbook.md").read_text()
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {alert for alert in alerts if not re.search(rf"\b{alert}\b", text)} == set()
