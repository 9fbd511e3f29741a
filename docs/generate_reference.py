"""Writes the tables of docs/reference/ from the code: ``make reference``.

Owns the tables; the pages hold the sentences around them. Names, defaults and rules come from the modules
that enforce them, meanings from their docstrings. Also runs as ``python -m docs.generate_reference``.
"""

import ast
import functools
import inspect
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin
from unittest.mock import patch

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from batching_watchdog import config as watchdog_config
from batching_watchdog.engine.capacity import Capacity
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.streams import Streams
from batching_watchdog.function import messages
from batching_watchdog.function.messages import BEST_EFFORT, Iteration, Output, Reply, Request, Target
from batching_watchdog.observe.metrics import UNCONNECTED
from batching_watchdog.observe.metrics import Metrics as WatchdogMetrics
from batching_watchdog.trial import command as trial
from batching_watchdog.trial import reload
from slo_autoscaler import config as autoscaler_config
from slo_autoscaler.__main__ import COMMANDS
from slo_autoscaler.__main__ import main as autoscaler
from slo_autoscaler.kube.resize_rules import Boosting
from slo_autoscaler.law.shadow import Score
from slo_autoscaler.model import Decision, Hold, Reason, Scale
from slo_autoscaler.platforms.keys import PLACES
from slo_autoscaler.settings import fields
from slo_autoscaler.settings.spec import Spec
from slo_autoscaler.show.metrics import GAUGES
from slo_autoscaler.show.metrics import Metrics as AutoscalerMetrics
from slo_autoscaler.signals import source as sources
from slo_autoscaler.signals.record import INPUTS
from tailbound_lab.local import __main__ as local
from tailbound_lab.simulate import __main__ as simulate

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "docs" / "reference"
WIDTH: Final = 98
"""Columns of the help texts."""

_INPUT_GAUGES: Final = {signal.gauge for signal in INPUTS.values()}
"""Metrics that signals.md has, beside the inputs that they export."""
_BOUNDS: Final = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_CLOSED: Final = ("outcome", "reason", "state", "stage", "scaler", "result", "piece")
"""Labels whose values are a closed list."""


def pages() -> dict[str, str]:
    """Return every generated page by its file name, with its tables written anew."""
    parts: dict[str, Mapping[str, str | None]] = {
        "watchdog.md": {"The watchdog's environment": _variables()},
        "autoscaler.md": _sections(),
        "metrics.md": {
            "The watchdog": _families(_watchdog_families()),
            "The autoscaler": _families(
                family for family in _autoscaler_families() if family.name not in _INPUT_GAUGES
            ),
            "Recorded series": None,
        },
        "signals.md": _reasons()
        | {"Inputs of a decision": _inputs()}
        | dict.fromkeys(("Functions without the watchdog", "The load, read directly")),
        "keys.md": {"Keys": _platform_keys()},
    }
    return {name: filled((FOLDER / name).read_text(), under) for name, under in parts.items()}


def filled(text: str, parts: Mapping[str, str | None]) -> str:
    """Return the page with each part under its heading: a table replaces the table there.

    None leaves a section as it is written. Raises ``KeyError`` for a part without a heading, and for a
    heading below the title without a part.
    """
    left = dict(parts)

    def now(section: re.Match[str]) -> str:
        level, title, body = section.groups()
        if level == "#" and title not in left:
            return section[0]
        part = left.pop(title)
        if part is None:
            return section[0]
        if part.startswith("|") and "\n|" in body:
            return f"{level} {title}\n" + re.sub(r"(^\|.*\n)+", lambda _: part, body, flags=re.MULTILINE)
        return f"{level} {title}\n\n{part}" + "\n" * body.endswith("\n\n")

    text = re.sub(r"^(##?) (.*)\n((?:(?!##? ).*\n)*)", now, text, flags=re.MULTILINE)
    if left:
        raise KeyError(f"no heading: {', '.join(left)}")
    return text


def help_of(run: Callable[[Sequence[str]], object], *words: str) -> str:
    """Return the output of a command's ``--help``, in ``WIDTH`` columns."""
    told = io.StringIO()
    plain = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "PYTHON_COLORS": "0"}
    with patch.dict(os.environ, plain), redirect_stdout(told), suppress(SystemExit):
        run([*words, "--help"])
    return "\n".join(line.rstrip() for line in told.getvalue().splitlines()) + "\n"


def helps() -> dict[str, str]:
    """The help text of every command that is installed."""
    return {
        "batching-watchdog try": help_of(trial.main),
        "batching-watchdog serve": help_of(reload.main),
        "slo-autoscaler": help_of(autoscaler, "run"),
        **{f"slo-autoscaler {word}": help_of(autoscaler, word) for word in COMMANDS if word != "run"},
        "tailbound-simulate": help_of(simulate.main),
        "local-openfaas": help_of(local.main),
        "local-openfaas up": help_of(local.main, "up"),
    }


def keys(kind: type = autoscaler_config.Config, prefix: str = "") -> set[str]:
    """Every key of the autoscaler's configuration, dotted."""
    own = {prefix + name for name in fields.keys(kind)}
    below = [keys(each, f"{prefix}{name}.") for name in fields.keys(kind) for each in _kinds(kind, name)]
    return own.union(*below)


def _platform_keys() -> str:
    """The labels and annotations of every platform; a key that means the same on two has one row."""
    places: dict[tuple[str, ...], list[str]] = {}
    for place, listed in PLACES.items():
        for key in listed:
            name, *old = key.names
            meaning = " ".join([key.meaning, *(f"{_code(each)} is another name." for each in old)])
            places.setdefault((name, key.kind, key.values, key.default, meaning), []).append(place)
    return _table(
        "key, kind, on, values, default, meaning",
        [(name, kind, "; ".join(on), *others) for (name, kind, *others), on in places.items()],
    )


def _variables() -> str:
    rows = []
    for each in watchdog_config.VARIABLES.values():
        others = [f"{_code(name)} is another name and loses" for name in each.after]
        default = _code(each.shown) if each.shown else ""
        # The page says once what a duration is.
        rule = each.rule.words.removesuffix(f", {watchdog_config.DURATION_SYNTAX}")
        rows.append((each.name, default, "; ".join([each.meaning, *others]), rule))
    return _table("variable, default, meaning, must be", rows)


def _sections() -> dict[str, str]:
    """Title -> the table of its keys; those of sections below it are dotted."""
    whole: Any = autoscaler_config.Config
    own = {each: _kinds(whole, each) for each in ("platform", "defaults")}
    shared = [row for row in _rows(whole) if row[0].partition(".")[0] not in own]
    (defaults,) = own["defaults"]
    head = "key, default, must be, meaning"
    return {
        "`defaults`": _table(head, _rows(defaults)),
        "`platform`": _table("key, kind, default, must be, meaning", _rows_by_kind(own["platform"])),
        "Other keys": _table(head, shared),
    }


def _rows_by_kind(kinds: Iterable[Any]) -> list[tuple[str, ...]]:
    """(key, kinds that have it, default, rule, meaning) of each key of a section that has several kinds."""
    holds: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds:
        for row in _rows(kind):
            holds.setdefault(row, []).append(kind.__pydantic_fields__["kind"].default)
    rows = [(key, ", ".join(of), *others) for (key, *others), of in holds.items() if key != "kind"]
    order = [row[0] for row in rows]
    return sorted(rows, key=lambda row: order.index(row[0]))


def _rows(kind: Any, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """(key, default, rule, meaning) of each key of a section and of those below it.

    A list, and a section that may be absent, has one row that names its keys; those of a section that holds
    another have rows too.
    """
    docs, rows = _attribute_docs(kind), list[tuple[str, str, str, str]]()
    for name, hint in fields.keys(kind).items():
        below = _kinds(kind, name)
        if not below:
            rule, meaning = _rule(hint), docs.get(name, "").replace("None", "null")
            rows.append((prefix + name, _default(kind, name, rule), rule, _one_line(meaning)))
        elif len(below) == 1:
            about = _one_line(inspect.getdoc(below[0]) or "")
            if kind is sources.Settings and below[0] is fields.Tls:
                rows.append((prefix + name, "none", "as `platform.tls`", about))
                continue
            field: FieldInfo = kind.__pydantic_fields__[name]
            inside = _rows(below[0], f"{prefix}{name}.")
            listed = ", ".join(map(_code, fields.keys(below[0])))
            if get_origin(hint) is tuple:
                rows.append((prefix + name, "none", f"a list, each with {listed}", _one_line(docs[name])))
                continue
            if not field.is_required() and field.default is None:
                rows.append((prefix + name, "none", f"a section with {listed}", about))
                if len(inside) == len(fields.keys(below[0])):
                    continue
            rows += inside
    return rows


def _kinds(kind: Any, name: str) -> list[Any]:
    """The sections of which a key holds one; ``functions`` holds those of ``defaults`` again."""
    return [] if name == "functions" else autoscaler_config.sections(kind, name)


def _rule(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [
            f"{words} {getattr(bound, name):g}"
            for each in hint.__metadata__
            for bound in (each.metadata if isinstance(each, FieldInfo) else ())
            for name, words in _BOUNDS.items()
            if hasattr(bound, name)
        ]
        return ", ".join([_told(hint) or _rule(hint.__origin__), *bounds])
    if origin is Literal:
        return " | ".join(map(_code, parts))
    if origin in (Union, UnionType):
        return _rule(next(part for part in parts if part is not type(None)))
    if origin is tuple:
        return "a list of names" if parts[0] in (str, fields.HostName) else "a list"
    if origin is dict:
        return "name.namespace: any key of `defaults`" if parts[1] is Spec else f"name: {_rule(parts[1])}"
    return {int: "a whole number", float: "a number", str: "text", bool: "true | false"}[hint]


def _told(hint: Any) -> str:
    """The rule of a validator of ours, as it tells it of a wrong value; nothing where there is none."""
    try:
        TypeAdapter(hint).validate_python(object(), context=autoscaler_config.CONTEXT)
    except ValidationError as error:
        fault = error.errors()[0]
        if fault["type"] == "value_error":
            return fault["msg"].removeprefix("Value error, must be ").partition(", such as")[0]
    return ""


def _default(kind: Any, name: str, rule: str) -> str:
    field: FieldInfo = kind.__pydantic_fields__[name]
    if field.is_required():
        return "must be set"
    value = field.get_default(call_default_factory=True)
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return _code(str(value).lower())
    if isinstance(value, tuple):
        return _code(f"[{', '.join(map(str, value))}]")
    if isinstance(value, float):
        return _code(_duration(value) if "duration" in rule else f"{value:g}")
    return _code(str(value))


def _duration(seconds: float) -> str:
    if seconds >= 60 and seconds % 60 == 0:
        return f"{seconds / 60:g}m"
    return f"{seconds:g}s" if seconds == 0 or seconds >= 1 else f"{seconds * 1000:g}ms"


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
    learned = CostModel(4)
    learned.overall.observe(1, 0.01)
    slos = {"default": Target(0.1, 0.99, 0.05), "batch": Target(2.0, 0.95, 1.0), "bulk": BEST_EFFORT}
    capacity = Capacity(learned, workers=1, slo_latency=0.1, objective=0.99, cpus=1.0)
    metrics = WatchdogMetrics(slos, capacity)
    metrics.request_finished(200, b"post", 0.01, "good")
    metrics.start_up_seconds = 1.0
    metrics.stream(_streamed(metrics.slos))
    metrics.gauges = {
        **UNCONNECTED,
        "workers": lambda: dict.fromkeys(("starting", "idle", "busy"), 0),
        "worker_resident_bytes": lambda: {0: 1},
        "spans": lambda: dict.fromkeys(("exported", "failed", "dropped"), 0),
    }
    return metrics.collect()


def _streamed(targets: Mapping[str, Target]) -> Streams:
    """Streams of which one has ended, so that their capacity is known."""
    streams = Streams(targets, max_inflight=1, max_streams=1, workers=1)
    worker: Any = object()
    streams.worker_ready(worker)
    streams.offer(Request(0, b"", b"", 0.0, 1.0, 2.0), 0.0)
    streams.tick(0.0)
    streams.stepped(worker, Iteration([Output(0, Reply(200, b"", b""), True)], 1, 0.01, 1, 0.01, 0.0), 0.1)
    return streams


def _autoscaler_families() -> Iterable[Metric]:
    registry = CollectorRegistry()
    metrics = AutoscalerMetrics(registry)
    decision = Decision(Hold(Reason.NO_DATA), dict.fromkeys(GAUGES, 1.0))
    for direction in ("hold", "up"):
        metrics.decided("f.ns", Scale(1, 1, rollout_failed=True), decision, direction, (1, Score()))
    metrics.desires({"f.ns": 1})
    metrics.boosts({"f.ns": (1.0, 3.0)}, {"f.ns": Boosting()})
    metrics.denies(["ns"])
    for stage in ("read", "decide", "act"):
        metrics.troubled(f"{stage}.ns", stage)
    # Those of functions come first, as what everybody looks for.
    return sorted(registry.collect(), key=lambda family: "function_name" not in labels(family))


def _families(families: Iterable[Metric]) -> str:
    rows = []
    for family in families:
        told = [
            _code(label)
            + (f" ({', '.join(values)})" if label in _CLOSED and "decisions" not in family.name else "")
            for label, values in labels(family).items()
        ]
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append((name, family.type, ", ".join(told), family.documentation))
    return _table("metric, type, labels, meaning", rows)


def _reasons() -> dict[str, str]:
    of_batches = _attribute_docs(messages.DispatchReason)
    batches = [(reason.value, _one_line(of_batches[reason.name])) for reason in messages.DispatchReason]
    of_decisions = _attribute_docs(Reason)
    decisions = [(reason.value, reason.clauses[0], _one_line(of_decisions[reason.name])) for reason in Reason]
    return {
        "Why a batch left": _table("reason, meaning", batches),
        "Why the autoscaler did what it did": _table("reason, sentence, meaning", decisions),
    }


def _inputs() -> str:
    inputs = [
        (name, each.unit.value, each.meaning + (f" Exported as {_code(each.gauge)}." if each.gauge else ""))
        for name, each in INPUTS.items()
    ]
    return _table("input, unit, meaning", inputs)


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


def _table(head: str, rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is code."""
    titles = head.split(", ")
    lines = [titles, ["---"] * len(titles), *([_code(first), *others] for first, *others in rows)]
    return "".join("| {} |\n".format(" | ".join(cell.replace("|", "\\|") for cell in line)) for line in lines)


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    for each, now in pages().items():
        (FOLDER / each).write_text(now)
