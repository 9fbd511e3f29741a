"""What the documentation shows as code exists: targets of make, options, files, keys, variables."""

import functools
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from batching_watchdog.config import DESCRIPTIONS
from contract.exposed import rules
from docs import generate_reference as reference
from docs.pages import NAMES, ROOT, blocks, inline, lines_of_code
from tailbound_lab.bench.__main__ import with_command

CURRENT = [name for name in NAMES if name != "CHANGELOG.md"]
"""The changelog names what is gone."""
TARGET = re.compile(r"(?:^|[\s(])make ([a-z][a-z-]*)\b")
FILE = re.compile(
    r"(?<![\w./-])((?:autoscaler|batching[-_]watchdog|bench|deploy|docs|functions|slo_autoscaler|template|tests)/"
    r"[\w./-]*)"
)
NO_FILES = {"deploy/slo-autoscaler"}
"""What kubectl calls a Deployment."""
PACKAGES = {"batching_watchdog": "batching-watchdog", "slo_autoscaler": "autoscaler"}
KEY = re.compile(r"(?:platform|prometheus|web|defaults|scale_up|scale_down)\.[a-z_.]+")
NO_KEY = re.compile(r"prometheus\.(?:io|log|create)\b")
"""Annotations, the local platform's log, a value of OpenFaaS' chart."""
OPTION = re.compile(r"--[a-z][a-z.-]*")
ENDS = {"|", "&", "&&", ";", ">", "<", "||"}
BEGINNINGS = ENDS | {"--", "$", "exec"}
"""After these a word is a program (or after a variable that is set for it)."""
OF_OTHERS = {
    *("--build-arg", "--build-label", "--build-option", "--label", "--set", "--shrinkwrap"),
    *("--preload", "--storage.tsdb.retention.time"),
}
"""Options of faas-cli, docker, helm, gunicorn and Prometheus that sentences name."""


@functools.cache
def helps() -> dict[str, str]:
    return reference.helps()


@functools.cache
def keys() -> frozenset[str]:
    return frozenset(reference.keys())


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def commands(line: str) -> Iterator[tuple[str, list[str]]]:
    """(program as in the reference, its words) of each command of ours in a line of shell."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose, or a quote that is closed in another line
        return
    for index, word in enumerate(words):
        for variable, module in (
            ("BENCH_ARGS=", "tailbound_lab.bench"),
            ("DEMO_ARGS=", "tailbound_lab.demo"),
        ):
            if word.startswith(variable):
                yield from commands(f"python -m {module} {word.removeprefix(variable)}")
        before = words[index - 1] if index else ";"
        if before not in BEGINNINGS and "=" not in before:
            continue
        name = word.rpartition("bin/")[2]
        rest = words[index + 1 :]
        if name == "python" and rest[:1] == ["-m"] and len(rest) > 1:
            name, rest = f"python -m {rest[1]}", rest[2:]
        if name == "python -m tailbound_lab.bench":
            rest = with_command(rest)
        if rest and f"{name} {rest[0]}" in helps():
            name, rest = f"{name} {rest[0]}", rest[1:]
        if name in helps():
            end = next((place for place, each in enumerate(rest) if each in ENDS), len(rest))
            yield name, rest[:end]


@pytest.mark.parametrize("name", CURRENT)
def test_every_make_target_exists(name: str):
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for line in lines_of_code(text_of(name)) for target in TARGET.findall(line)}
    assert named <= targets


@pytest.mark.parametrize("name", CURRENT)
def test_every_option_of_a_command_of_ours_exists(name: str):
    for line in lines_of_code(text_of(name)):
        for program, words in commands(line):
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert re.search(rf"{option}\b(?!-)", helps()[program]), f"{name}: {line}: {option}"


@pytest.mark.parametrize("name", CURRENT)
def test_every_option_that_a_sentence_names_is_somebodys(name: str):
    known = {option for text in helps().values() for option in OPTION.findall(text)} | OF_OTHERS
    named = {OPTION.match(code)[0] for code in inline(text_of(name)) if OPTION.match(code)}
    assert named <= known | {"--help", "--version"}


@pytest.mark.parametrize("name", CURRENT)
def test_every_file_of_the_repository_exists(name: str):
    for line in lines_of_code(text_of(name)):
        for path in FILE.findall(line):
            first, _, rest = path.rstrip(".").partition("/")
            if path in NO_FILES:
                continue
            places = [ROOT / PACKAGES[first] / first / rest] if first in PACKAGES else [ROOT / first / rest]
            assert any(place.exists() for place in places), f"{name}: {path}"


@pytest.mark.parametrize("name", CURRENT)
def test_every_key_of_the_autoscalers_configuration_exists(name: str):
    text = text_of(name)
    named = {match[0] for code in inline(text) if (match := KEY.match(code)) and not NO_KEY.match(code)}
    for document in documents(text):
        named |= keys_of(document)
    known = keys() | {key.removeprefix("defaults.") for key in keys()}
    assert {key.rstrip(".") for key in named} <= known


def keys_of(document: Any) -> set[str]:
    """The dotted keys of a piece of YAML, if it is one of the autoscaler's configuration."""
    if not isinstance(document, dict):
        return set()
    functions = document.get("functions") or {}
    ours = bool({"platform", "prometheus", "defaults"} & document.keys()) or (
        bool(functions) and not any("handler" in function for function in functions.values())
    )
    if not ours:
        return set()
    rest = {key: value for key, value in document.items() if key != "functions"}
    found = set(dotted(rest))
    for function in functions.values():
        found |= {f"defaults.{key}" for key in dotted(function)}
    return found


def dotted(document: Any, prefix: str = "") -> Iterator[str]:
    for key, value in document.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")


@pytest.mark.parametrize("name", CURRENT)
def test_every_variable_of_the_watchdog_exists(name: str):
    for document in documents(text_of(name)):
        assert set(environments(document)) <= DESCRIPTIONS.keys()


def documents(text: str) -> Iterator[Any]:
    for block in blocks(text):
        if block.language == "yaml":
            yield from yaml.safe_load_all(block.text)


def environments(document: Any) -> Iterator[str]:
    """The variables under each ``environment``."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield from value if key == "environment" and isinstance(value, dict) else environments(value)
    elif isinstance(document, list):
        for value in document:
            yield from environments(value)


def test_every_knob_that_one_is_told_to_leave_exists():
    rows = re.findall(r"^\| (`[^|]+`) \|", text_of("docs/howto/tune-nothing.md"), re.MULTILINE)
    knobs = {knob for row in rows for knob in re.findall(r"`(\w+)`", row)}
    assert len(knobs) > 20
    assert knobs <= DESCRIPTIONS.keys() | {key.rpartition(".")[2] for key in keys()}


def test_whoever_is_on_call_finds_every_alert():
    text = text_of("docs/howto/on-call.md")
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert alerts
    assert not {alert for alert in alerts if not re.search(rf"\b{alert}\b", text)}


def test_the_tests_see_a_wrong_option_a_wrong_file_and_a_wrong_key():
    ((program, words),) = commands(
        "PATH=x .venv/bin/slo-autoscaler explain vision --log FILE | tail --lines 3"
    )
    assert (program, words) == ("slo-autoscaler explain", ["vision", "--log", "FILE"])
    assert [name for name, _ in commands("make bench BENCH_ARGS='--quick'")] == [
        "python -m tailbound_lab.bench compare"
    ]
    assert FILE.findall("see deploy/nothing.yml.") == ["deploy/nothing.yml."]
    assert keys_of({"defaults": {"scale_up": {"step": 1}}}) == {
        "defaults",
        "defaults.scale_up",
        "defaults.scale_up.step",
    }
