"""Names that the documentation shows as code exist.

Targets of make, options, files, modules, configuration keys, variables, metrics, reasons and alerts.
"""

import functools
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batching_watchdog.config import DESCRIPTIONS
from docs import generate_reference as reference
from support.exposed import exposed, recorded, rules
from support.pages import NAMES, ROOT, blocks, inline, lines_of_code
from tailbound_lab.bench import __main__ as bench
from tailbound_lab.demo import __main__ as demo

CURRENT = [name for name in NAMES if name != "CHANGELOG.md"]
"""The changelog names what is gone."""
PACKAGES = ("batching_watchdog", "slo_autoscaler", "tailbound_lab")
WITHOUT_SUFFIX = ("Makefile", "autoscaler/Dockerfile", "template/python3-inference/Dockerfile")
TARGET = re.compile(r"(?:^|[\s(])make ([a-z][a-z-]*)\b")
# A path from the root, or a source file by the end of its path, which a name in it may follow.
PATH = re.compile(
    r"(?<![\w./-])(?:autoscaler|batching-watchdog|deploy|docs|functions|lab|template|tests)/[\w./-]*"
)
SOURCE = re.compile(r"(?<![\w./-])((?:[\w-]+/)*[a-z_]\w*[a-z0-9_]\.(?:py|c|sh|js))\b(?::([\w.]+))?")
MODULE = re.compile(
    r"(?<![\w./-])(?:batching_watchdog|slo_autoscaler|tailbound_lab"
    r"|front|pool|worker|engine|law|kube|sources|platforms|cli)(?:\.[A-Za-z_]\w*)+"
)
KEY = re.compile(r"(?:platform|prometheus|leader|web|defaults|scale_up|scale_down)\.[a-z_.]+")
NO_KEY = re.compile(r"prometheus\.(?:io|log|create)\b")
"""Annotations, the local platform's log, a value of OpenFaaS' chart."""
METRIC = re.compile(
    r"(?<![\w./-])(?P<name>(?:slo_autoscaler|watchdog)_\w*[a-z0-9]|slo_requests\w*|(?:slo|function_name\w*):[a-z][\w:]*\w)"
    r"(?P<family>:?\{|_\*|:\*)?"
)
TEST = re.compile(r"^def (test_\w+)")
SNAKE = re.compile(r"(?<![\w./:$-])[A-Za-z]+(?:_[A-Za-z0-9]+)+(?![\w:*]|\.\w)")
CAMEL = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+")
OF_OTHERS = {
    *("CreateContainerConfigError", "FailedCreate", "FailedGetExternalMetric", "KeyError", "NotOwned"),
    *("NotSupported", "OwnerReferencesPermissionEnforcement", "ScaleToZero", "ScalingActive", "TimedOut"),
    *("deploy/slo-autoscaler", "utils.py"),
    *("--build-arg", "--build-label", "--dry-run", "--extra-index-url", "--set", "--shrinkwrap"),
    *("--storage.tsdb.retention.time", "--enable-feature"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"),
    *("http_buffer_req_body", "log_buffer_size", "log_callid", "static_path", "suppress_lock"),
    *("faas_prometheus_host", "functions_provider_url", "scale_from_zero", "build_args"),
    *("http_response_status_code", "http_server_request_duration_seconds", "response_code"),
    *("http_server_request_duration_seconds_bucket", "http_server_request_duration_seconds_count"),
    *("kn_serving_invocation_duration_seconds", "kn_serving_queue_depth", "revision_queue_depth"),
    *("revision_request_latencies_bucket", "revision_request_count", "tmp_path"),
}
"""Reasons of Kubernetes and Knative; a Deployment, and a file that must not be; options of faas-cli, docker,
pip, kubectl, helm and Prometheus; variables of of-watchdog, OpenFaaS' gateway and OpenTelemetry's SDK;
metrics of Knative; a fixture of pytest.
"""
OPTION = re.compile(r"--[a-z][a-z.-]*")
ENDS = {"|", "&", "&&", ";", ">", "<", "||"}
BEGINNINGS = ENDS | {"--", "$", "exec"}
"""After these a word is a program (or after a variable that is set for it)."""


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
    found = reference.keys()
    values = yaml.safe_load((ROOT / "deploy/helm/slo-autoscaler/values.yaml").read_text())
    chart = {*dotted(values), *(f"config.{key}" for key in found)}
    return frozenset(found) | {key.removeprefix("defaults.") for key in found} | chart


@functools.cache
def sources() -> dict[str, Path]:
    """Every file by its path from the root."""
    left_out = {".git", ".venv", "build", "node_modules"}
    return {
        str(path.relative_to(ROOT)): path
        for path in ROOT.rglob("*.*")
        if not left_out & set(path.relative_to(ROOT).parts)
    }


@functools.cache
def words() -> frozenset[str]:
    """Every word of what ships and of the laboratory; of the tests their names and variables."""
    found = set()
    kinds = {".py", ".c", ".yml", ".yaml", ".sh", ".js", ".html", ".toml"}
    for name, path in sources().items() | {(name, ROOT / name) for name in WITHOUT_SUFFIX}:
        if name in WITHOUT_SUFFIX or (path.suffix in kinds and not name.startswith("docs/")):
            own = words_of(path)
            found |= {word for word in own if not name.startswith("tests/") or word[:5] in ("test_", "TEST_")}
    return frozenset(found)


@functools.cache
def words_of(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", path.read_text()))


@functools.cache
def metrics() -> frozenset[str]:
    families = {
        family.name + ("_total" if family.type == "counter" else "") for family in reference.families()
    }
    samples = {sample.name for family in reference.families() for sample in family.samples}
    return frozenset(exposed() | recorded() | families | samples)


def module_exists(dotted: str) -> bool:
    return any(resolves(name) for name in (dotted, *(f"{package}.{dotted}" for package in PACKAGES)))


def resolves(dotted: str) -> bool:
    try:
        pkgutil.resolve_name(dotted)
    except (ImportError, AttributeError):
        return False
    return True


def source_exists(path: str, name: str | None) -> bool:
    found = [file for known, file in sources().items() if f"/{known}".endswith(f"/{path}")]
    return any(name is None or set(name.split(".")) <= words_of(file) for file in found)


def metric_exists(name: str, family: str | None) -> bool:
    """Whether it is exposed or recorded; with windows in braces or a star, whether any begins so."""
    return any(known.startswith(name) for known in metrics()) if family else name in metrics()


def unknown(text: str) -> Iterator[str]:
    """The names in a page that nothing has."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines_of_code(text):
        yield from (f"make {each}" for each in TARGET.findall(line) if each not in targets)
        yield from (each for each in PATH.findall(line) if not (ROOT / each.rstrip(".")).exists())
        yield from (each for each in MODULE.findall(line) if not module_exists(each))
        yield from (each for each in TEST.findall(line) if each not in words())
        yield from (
            each[0] for each in METRIC.finditer(line) if not metric_exists(each["name"], each["family"])
        )
    for code in inline(text):
        yield from (each[0] for each in SOURCE.finditer(code) if not source_exists(each[1], each[2]))
        yield from (each for each in SNAKE.findall(code) if each not in words() | metrics())
        if CAMEL.fullmatch(code) and code not in words():
            yield code
        key = KEY.match(code)
        if key and not NO_KEY.match(code) and key[0].rstrip(".") not in keys():
            yield key[0]
        option = OPTION.match(code)
        if option and not any(
            option[0] in OPTION.findall(each) for each in (*helps().values(), "--help --version")
        ):
            yield option[0]
    for document in documents(text):
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
        name = word.rpartition("bin/")[2]
        rest = words[index + 1 :]
        if name == "python" and rest[:1] == ["-m"] and len(rest) > 1:
            name, rest = f"python -m {rest[1]}", rest[2:]
        if name == "python -m tailbound_lab.bench":
            rest = bench.with_command(rest)
        if rest and f"{name} {rest[0]}" in helps():
            name, rest = f"{name} {rest[0]}", rest[1:]
        if name in helps():
            end = next((place for place, each in enumerate(rest) if each in ENDS), len(rest))
            yield name, rest[:end]


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
    found = set(dotted({key: value for key, value in document.items() if key != "functions"}))
    return found.union(*({f"defaults.{key}" for key in dotted(function)} for function in functions.values()))


def dotted(document: Any, prefix: str = "") -> Iterator[str]:
    for key, value in document.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict) and key != "headers":  # their names are HTTP's
            yield from dotted(value, f"{prefix}{key}.")


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


@pytest.mark.parametrize("page", CURRENT)
def test_page_names_only_what_exists(page):
    assert set(unknown((ROOT / page).read_text())) - OF_OTHERS == set()


@pytest.mark.parametrize("page", CURRENT)
def test_command_of_ours_has_the_options_that_a_page_gives_it(page):
    for line in lines_of_code((ROOT / page).read_text()):
        for program, words in commands(line):
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                assert re.search(rf"{option}\b(?!-)", helps()[program]), f"{line}: {option}"


@pytest.mark.parametrize(
    "wrong",
    [
        *("make nothing", "deploy/nothing.yml", "nothing.py", "shell.py:Shell.nothing", "--nothing"),
        *("batching_watchdog.nothing", "law.decide.nothing", "platform.nothing", "NoSuchReason"),
        *("slo_autoscaler_nothing_total", "slo:nothing:ratio"),
        *("slo:nothing:ratio_rate{5m,1h}", "watchdog_nothing_*", "no_such_setting"),
    ],
)
def test_name_that_nothing_has_is_found(wrong):
    assert list(unknown(f"A sentence with `{wrong}` in it.")) != []


def test_key_variable_and_option_that_nothing_has_are_found_in_blocks():
    yaml_block = "```yaml\n{}\n```\n"
    assert list(unknown(yaml_block.format("defaults: {scale_up: {step: 1}}"))) == ["defaults.scale_up.step"]
    gone = "_".join(("test", "nothing"))  # in one piece it would be a word of this file
    assert list(unknown(f"```python\ndef {gone}():\n```\n")) == [gone]
    assert list(unknown(yaml_block.format("environment: {slo_latency: 1s, nothing: 1}"))) == ["nothing"]
    line = "PATH=x .venv/bin/slo-autoscaler explain vision --log FILE | tail --lines 3"
    assert list(commands(line)) == [("slo-autoscaler explain", ["vision", "--log", "FILE"])]
    assert [name for name, _ in commands("make demo DEMO_ARGS='--quick'")] == ["python -m tailbound_lab.demo"]


def test_runbook_has_every_alert():
    text = (ROOT / "docs/howto/runbook.md").read_text()
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {alert for alert in alerts if not re.search(rf"\b{alert}\b", text)} == set()
