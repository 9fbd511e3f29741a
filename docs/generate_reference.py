"""Writes docs/reference/ from the code: ``make reference``, or ``python -m docs.generate_reference``.

Owns how the reference looks. What it says is the code's: names, defaults and rules come from the modules that
enforce them, meanings from their docstrings. tests/docs holds the pages against it.
"""

import ast
import functools
import inspect
import io
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from unittest.mock import patch

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from batching_watchdog import config as watchdog_config
from batching_watchdog import errors, messages
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.metrics import Gauges
from batching_watchdog.metrics import Metrics as WatchdogMetrics
from slo_autoscaler import config as autoscaler_config
from slo_autoscaler import fields
from slo_autoscaler.__main__ import COMMANDS
from slo_autoscaler.__main__ import main as autoscaler
from slo_autoscaler.law.inputs import INPUTS
from slo_autoscaler.law.policies import POLICIES
from slo_autoscaler.metrics import GAUGES
from slo_autoscaler.metrics import Metrics as AutoscalerMetrics
from slo_autoscaler.model import Decision, Reason, Scale
from slo_autoscaler.shadow import Score
from slo_autoscaler.signals import SIGNALS
from slo_autoscaler.sources import promql
from tailbound_lab.local import __main__ as local
from tailbound_lab.simulate import __main__ as simulate

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs" / "reference"
WIDTH: Final = 98
"""Columns of the help texts."""

_MARK: Final = "<!-- Written by docs/generate_reference.py (make reference): change the code instead. -->\n\n"
_CLOSED: Final = ("outcome", "reason", "state", "stage", "scaler")
"""Labels whose values are a closed list."""


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {
        "watchdog.md": _watchdog(),
        "autoscaler.md": _autoscaler(),
        "metrics.md": _metrics(),
        "reasons.md": _reasons(),
        "signals.md": _signals(),
        "cli.md": _commands(),
    }


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


def help_of(run: Callable[[Sequence[str]], object], *words: str) -> str:
    """What a command says to ``--help``, in columns of ``WIDTH``."""
    told = io.StringIO()
    plain = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "PYTHON_COLORS": "0"}
    with patch.dict(os.environ, plain), redirect_stdout(told), suppress(SystemExit):
        run([*words, "--help"])
    return "\n".join(line.rstrip() for line in told.getvalue().splitlines()) + "\n"


def helps() -> dict[str, str]:
    """The help text of every command that is installed."""
    return {
        "slo-autoscaler": help_of(autoscaler, "run"),
        **{f"slo-autoscaler {word}": help_of(autoscaler, word) for word in COMMANDS if word != "run"},
        "tailbound-simulate": help_of(simulate.main),
        "local-openfaas": help_of(local.main),
        "local-openfaas up": help_of(local.main, "up"),
    }


def keys(kind: type = autoscaler_config.Config, prefix: str = "") -> dict[str, str]:
    """Every key of the autoscaler's configuration, dotted -> its rule."""
    found: dict[str, str] = {}
    for name, hint in fields.keys(kind).items():
        kinds = _kinds(kind, name)
        for each in kinds:
            found |= keys(each, f"{prefix}{name}.")
        found[prefix + name] = "a section" if kinds else _rule(hint)
    return found


def _watchdog() -> str:
    rows = []
    for each in watchdog_config.VARIABLES.values():
        default = _code(each.shown) if each.shown else ""
        others = [f"{_code(name)} is another name, and wins" for name in each.before]
        others += [f"{_code(name)} is another name, which loses" for name in each.after]
        rows.append((_code(each.name), default, "; ".join([each.meaning, *others]), each.rule.words))
    return (
        f"{_MARK}# The watchdog's environment\n\n"
        "Set under `environment` in the stack file. `slo_latency` is the one to set; "
        "[what each of the others would do](../howto/tune-nothing.md), and why to leave it.\n"
        "A duration is `250ms`, `30s`, `1m30s`, or a whole number of seconds. A wrong value stops the start "
        "with exit status 2 and a line that names the variable, its value and the rule. Exact behavior: "
        "[behavior.md](../behavior.md).\n\n" + _table(("variable", "default", "meaning", "must be"), rows)
    )


def _autoscaler() -> str:
    parts = [
        f"{_MARK}# The autoscaler's configuration\n\n"
        "One YAML file, `--config`. [deploy/openfaas/config.yaml](../../deploy/openfaas/config.yaml) is "
        "that file with every default.\n"
        "A duration is `250ms`, `30s`, `1m30s`, or a number of seconds. A key that is not known, or a wrong "
        "value, stops the start with exit status 2 and one line for each fault: file, key, value, rule.\n"
        "What the keys of `defaults` do to a function: [scaling.md](../scaling.md).\n"
    ]
    parts += _sections(autoscaler_config.Config, "")
    policies = [(_code(name), policy.label) for name, policy in POLICIES.items()]
    parts.append(
        "## Policies\n\nWhat each does: [scaling.md](../scaling.md).\n\n"
        + _table(("policy", "recommends by"), policies)
    )
    overrides = [
        (_code(f"--{flag.replace('_', '-')}"), _code(variable), _code(key))
        for flag, (key, variable) in autoscaler_config.OVERRIDES.items()
    ]
    parts.append(
        "## Without editing\n\nA flag wins over a variable, a variable over the file.\n\n"
        + _table(("flag", "variable", "key"), overrides)
    )
    return "\n".join(parts)


def _sections(kind: Any, prefix: str, *, optional: bool = False, which: str = "") -> list[str]:
    """One table for a section, then those of the sections in it; ``which`` it is, where there is a choice."""
    docs = _attribute_docs(kind)
    rows, below = [], []
    for name, hint in fields.keys(kind).items():
        key = prefix + name
        kinds = _kinds(kind, name)
        for each in kinds:
            default = kind.__pydantic_fields__[name].get_default(call_default_factory=True)
            chosen = f" with `kind: {each.__pydantic_fields__['kind'].default}`" if len(kinds) > 1 else ""
            below += _sections(each, f"{key}.", optional=default is None, which=chosen)
        if kinds:
            continue
        rule, meaning = _rule(hint), docs.get(name, "").replace("None", "null")
        rows.append((_code(name), _default(kind, name, rule), rule, _one_line(meaning)))
    title = f"`{prefix[:-1]}`{which}" if prefix else "Top level"
    about = f"{inspect.getdoc(kind)}{' Default: none.' if optional else ''}"
    table = "\n" + _table(("key", "default", "must be", "meaning"), rows) if rows else ""
    return [f"## {title}\n\n{_one_line(about)}\n{table}", *below]


def _kinds(kind: Any, name: str) -> list[Any]:
    """The sections of which a key holds one; ``functions`` holds those of ``defaults`` again."""
    return [] if name == "functions" else autoscaler_config.sections(kind, name)


def _rule(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(hint.__origin__, hint.__metadata__)
    if origin is Literal:
        return " | ".join(map(_code, parts))
    if origin in (Union, UnionType):
        return _rule(next(part for part in parts if part is not type(None)))
    if origin is tuple:
        return "a list of names" if parts[0] is str else "a list"
    if origin is dict:
        return "name.namespace: any key of `defaults`"
    return {int: "a whole number", float: "a number", str: "text", bool: "true | false"}[hint]


def _annotated(base: Any, metadata: Iterable[Any]) -> str:
    """A rule in the words of the validator, or else of the bounds."""
    words, bounds = "", []
    for each in metadata:
        if isinstance(each, BeforeValidator):
            words = _validator(each.func)
        elif isinstance(each, FieldInfo):
            bounds += [text for bound in each.metadata if (text := _bound(bound))]
    return ", ".join([words or _rule(base), *bounds])


def _validator(check: Any) -> str:
    if check is fields.parse_duration:
        return "a duration"
    try:
        if len(inspect.signature(check).parameters) > 1:
            check(object(), SimpleNamespace(context=autoscaler_config.CONTEXT))
        else:
            check(object())
    except ValueError as error:
        return str(error).removeprefix("must be ")
    return ""


def _bound(bound: Any) -> str:
    for name, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        value = getattr(bound, name, None)
        if value is not None:
            return f"{words} {value:g}"
    return ""


def _default(kind: Any, name: str, rule: str) -> str:
    field: FieldInfo = kind.__pydantic_fields__[name]
    if field.is_required():
        return "must be set"
    value = field.get_default(call_default_factory=True)
    if value is None or value == {}:
        return "none"
    if isinstance(value, tuple):
        return _code(f"[{', '.join(map(str, value))}]")
    if isinstance(value, float):
        return _code(_duration(value) if "duration" in rule else f"{value:g}")
    return _code(str(value))


def _duration(seconds: float) -> str:
    if seconds >= 60 and seconds % 60 == 0:
        return f"{seconds / 60:g}m"
    return f"{seconds:g}s" if seconds == 0 or seconds >= 1 else f"{seconds * 1000:g}ms"


def _metrics() -> str:
    return (
        f"{_MARK}# Exported metrics\n\n"
        "What the two exporters show. What the recording rules make of it, and the gateway's: "
        "[metrics.md](../metrics.md). Scraped series of a function have the label `function_name` too.\n\n"
        "## The watchdog\n\nPort `metrics_port` (8081). The first three are of-watchdog's; process metrics "
        "(`process_*`, `python_*`) come with them.\n\n"
        + _families(_watchdog_families())
        + "\n## The autoscaler\n\nPort `web.port` (8082).\n\n"
        + _families(_autoscaler_families())
    )


def families() -> list[Metric]:
    """Every metric that is exported; where a label's values are a closed list, with a sample of each."""
    return [*_watchdog_families(), *_autoscaler_families()]


def labels(family: Metric) -> dict[str, list[str]]:
    """The labels of a metric, and the values that its samples have."""
    found: dict[str, list[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le" and value not in found.setdefault(label, []):
                found[label].append(value)
    return found


def _watchdog_families() -> Iterable[Metric]:
    learned = LatencyModel(4)
    learned.observe(1, 0.01)
    metrics = WatchdogMetrics(slo_latency=0.1, slo_objective=0.99, workers=1, model=learned)
    metrics.gauges = Gauges(resident_bytes=lambda: {0: 1})
    return metrics.collect()


def _autoscaler_families() -> Iterable[Metric]:
    registry = CollectorRegistry()
    metrics = AutoscalerMetrics(registry)
    decision = Decision(None, Reason.NO_DATA, dict.fromkeys(GAUGES, 1.0))
    metrics.decided("f.ns", Scale(1, 1), decision, "hold", 1)
    metrics.shadowed("f.ns", 1, Score())
    # Those of functions come first, as what everybody looks for.
    return sorted(registry.collect(), key=lambda family: "function_name" not in labels(family))


def _families(families: Iterable[Metric]) -> str:
    rows = []
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        told = ", ".join(
            _code(label) + (f" ({', '.join(values)})" if _is_closed(family, label) else "")
            for label, values in labels(family).items()
        )
        rows.append((_code(name), family.type, told, family.documentation))
    return _table(("metric", "type", "labels", "meaning"), rows)


def _is_closed(family: Metric, label: str) -> bool:
    return label in _CLOSED and family.name != "slo_autoscaler_decisions"


def _reasons() -> str:
    of_batches = _attribute_docs(messages.DispatchReason)
    batches = [
        (_code(reason.value), _one_line(of_batches[reason.name])) for reason in messages.DispatchReason
    ]
    refusals = [
        (_code(each.reason), str(each.status), _one_line(inspect.getdoc(each) or ""))
        for each in errors.REFUSALS
    ]
    decisions = [(_code(reason.value), _sentence(reason)) for reason in Reason]
    return (
        f"{_MARK}# Reasons\n\n"
        "Three closed lists. Alerts, dashboards and scripts may rely on them.\n\n"
        "## Why a batch left\n\n"
        "In `X-Batch-Reason`, in the access log, and in `watchdog_dispatch_total{reason}`; `profile` is in "
        "the last only.\n\n" + _table(("reason", "meaning"), batches) + "\n## Why a request was refused\n\n"
        "In `X-Watchdog-Reason`, in the access log, and in `watchdog_refusals_total{reason}`. The other "
        "errors and what each counts as: [behavior.md](../behavior.md#statuses).\n\n"
        + _table(("reason", "status", "meaning"), refusals)
        + "\n## Why the autoscaler did what it did\n\n"
        "In the decision log and in `slo_autoscaler_decisions_total{reason}`; `slo-autoscaler explain` says "
        "the sentence, with numbers where braces stand, and leaves out what it does not know. When each "
        "applies: [scaling.md](../scaling.md#reasons).\n\n" + _table(("reason", "sentence"), decisions)
    )


def _sentence(reason: Reason) -> str:
    first, *others = reason.clauses
    return f"{first}{': ' if others else ''}{', '.join(others)}"


def _signals() -> str:
    queries = [
        (_code(name), _code(promql.documented(text)), SIGNALS[name].meaning)
        for name, text in promql.WATCHDOG.items()
    ]
    gateway = [(_code(name), _code(promql.documented(text))) for name, text in promql.GATEWAY.items()]
    history = [(_code(name), _code(text)) for name, text in promql.HISTORY.items()]
    inputs = [
        (_code(name), each.unit.value, _code(each.gauge) if each.gauge else "", each.meaning)
        for name, each in INPUTS.items()
    ]
    return (
        f"{_MARK}# Signals and inputs\n\n"
        "## Inputs of a decision\n\nEvery decision carries them, null where something is not known.\n\n"
        + _table(("input", "unit", "exported as", "meaning"), inputs)
        + "\n## Queries for functions with the batching watchdog\n\n"
        "One query for each signal covers all functions. `$R` is four scrapes, `$N` the newest two of them, "
        "`$W` is `prometheus.window`. Why: [scaling.md](../scaling.md#queries).\n\n"
        + _table(("signal", "query", "for"), queries)
        + "\n## Queries for functions without it\n\n"
        "`signals: gateway`. `$F` selects these functions by name; `$ATTAINED` is the share of the judged "
        "answers that were successes within the first edge of the gateway's histogram not below the SLO.\n\n"
        + _table(("signal", "query"), gateway)
        + "\n## Range queries after a restart\n\n"
        + _table(("what", "query"), history)
    )


def _commands() -> str:
    parts = [
        f"{_MARK}# Commands\n\n"
        "`batching-watchdog` takes no arguments but `--help` and `--version`: it is configured by "
        "[its environment](watchdog.md). Exit statuses: "
        "[of the watchdog](../behavior.md#signals-and-shutdown), "
        "[of the autoscaler](../../autoscaler/README.md#exit-statuses). `make help` lists what can be made "
        "in a clone.\n"
    ]
    parts += [f"## {name}\n\n```text\n{text.rstrip()}\n```\n" for name, text in helps().items()]
    return "\n".join(parts)


@functools.cache
def _attribute_docs(kind: type) -> dict[str, str]:
    """Attribute -> the string that stands under it in the source of ``kind``."""
    (found,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(found, ast.ClassDef)  # noqa: S101 - for the type checker
    docs = {}
    for above, here in pairwise(found.body):
        target = above.targets[0] if isinstance(above, ast.Assign) else getattr(above, "target", None)
        text = here.value if isinstance(here, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(text, ast.Constant) and isinstance(text.value, str):
            docs[target.id] = text.value
    return docs


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    main()
