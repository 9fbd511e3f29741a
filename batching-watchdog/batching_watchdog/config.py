"""Reads the environment into a frozen ``Config``. [P]

Each variable is one field of ``Config``, with names, default, rule and meaning. Parsing, --help, the
reference and the errors follow from it. of-watchdog's names are kept where the meaning is the same
(https://github.com/openfaas/of-watchdog#configuration), but an invalid value stops the start instead of
falling back silently. CPUs and CUDA devices are arguments, which ``machine`` reads.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from math import inf
from typing import Any, Final, NamedTuple, TypeVar

from batching_watchdog.errors import ConfigError
from batching_watchdog.function.messages import BEST_EFFORT, DEFAULT_CLASS, Target
from batching_watchdog.function.wire import MAX_PART
from batching_watchdog.process.quota import MAX_AUTO_WORKERS, Asked

_T = TypeVar("_T")

DRAIN_SECONDS: Final = 15.0
"""Default seconds to finish admitted requests. With the default healthcheck_interval and the stop of the
workers, a drain takes less than 25 s, within a pod's grace period of 30 s."""

MAX_SLO_CLASSES: Final = 16
"""Each has its own series in every replica, rule and dashboard."""

BEST_EFFORT_NAME: Final = "best-effort"

QUEUED_BYTES: Final = 1 << 28
QUEUED_SHARE: Final = 8
"""Default of max_queued_bytes, at most the memory limit divided by this: bodies are copied to workers, which
need memory of their own. Twice max_body_bytes if that is more."""

BODY_BYTES: Final = 1 << 24
BODY_SHARE: Final = 4
"""Default of max_body_bytes, at most that of max_queued_bytes divided by this."""

BATCH_SHARE: Final = 4
"""Bodies and answers of one batch have at most max_queued_bytes divided by this: its worker copies them."""

KEPT_BYTES: Final = 1 << 26
KEPT_SHARE: Final = 16
"""Freed memory that is kept for the next bodies, at most the memory limit divided by this."""

RESERVED_FILES: Final = 128
"""Open files that are reserved for other purposes than clients, in addition to one per worker."""

LEAST_FILES: Final = 40
"""Open files without which no worker serves one client, in addition to one per worker; about 30 are open."""

REMOVED: Final[Mapping[str, str]] = {
    "batch_policy": "is no setting any more; leave it out for slo; max_batch_size=1 serves as unbatched did, "
    "max_batch_size bounds batches as fixed and aimd did",
    "max_batch_delay": "is no setting any more; leave it out: a batch leaves when a worker is free",
    "max_connections": "is no setting any more; leave it out: the limit on open files (ulimit -n) sets it",
    "worker_priority": "is no setting any more; leave it out: on a busy CPU the front end goes first",
}
"""Variables of earlier versions -> what does their work now: whoever still sets one is told so."""

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_GO_DURATION: Final = re.compile(rf"(?:{_GO_PART.pattern})+", re.ASCII)
_BYTES: Final = re.compile(r"(\d+)(Ki|Mi|Gi)?", re.ASCII)
_FACTORS: Final = {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CLASS_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_LONGEST: Final = (2**63 - 1) / 1e9
"""Longest duration in Go, in seconds (292 years); excludes infinity, which parses as a number."""


def parse_duration(text: str) -> float:
    """Return the seconds in ``text``: Go's syntax (``1m30s``, ``250ms``) or a plain number of seconds.

    Raises ``ValueError`` for anything else, including negative values and more than Go's longest.
    """
    if text.isascii() and text.isdigit():
        seconds = float(text)
    elif _GO_DURATION.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _GO_PART.findall(text))
    else:
        raise ValueError(text)
    if seconds > _LONGEST:
        raise ValueError(text)
    return seconds


def parse_bytes(text: str) -> int:
    """Return the bytes in ``text``: a whole number, optionally with Kubernetes' suffix Ki, Mi or Gi."""
    match = _BYTES.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * _FACTORS[match[2]]


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of a variable as text, and its parser; ``parse`` raises ``ValueError``."""

    words: str
    parse: Callable[[str], Any]


def _whole(low: int, high: int, words: str) -> Rule:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return Rule(words, parse)


def _or_auto(rule: Rule) -> Rule:
    """Return ``rule``, extended by ``auto``, which gives None."""
    return Rule(f"auto or {rule.words}", lambda text: None if text == "auto" else rule.parse(text))


def _or_unset(rule: Rule) -> Rule:
    """Return ``rule``, extended by an unset variable, which gives None."""
    return Rule(rule.words, lambda text: rule.parse(text) if text else None)


def _where(allowed: Callable[[_T], bool], parse: Callable[[str], _T], words: str) -> Rule:
    def checked(text: str) -> _T:
        value = parse(text)
        if not allowed(value):
            raise ValueError(text)
        return value

    return Rule(words, checked)


def _choice(values: Mapping[str, Any], words: str = "") -> Rule:
    """Return the rule for one of the words in ``values``, which gives its value there."""

    def parse(text: str) -> Any:
        if text not in values:
            raise ValueError(text)
        return values[text]

    *others, last = values
    return Rule(words or f"{', '.join(others)} or {last}", parse)


def _access_log(text: str) -> float | None:
    shares = {"true": 1.0, "1": 1.0, "missed": 0.0, "false": None, "0": None}
    return shares[text] if text in shares else SHARE.parse(text)


def _traces(text: str) -> bool | None:
    return "otlp" in (part.strip() for part in text.split(",")) if text else None


class DeclaredClass(NamedTuple):
    """An SLO class. Durations are seconds; None: the function's own."""

    latency: float
    objective: float | None
    interval: float | None


def parse_slo_classes(text: str) -> dict[str, DeclaredClass]:
    """Return the SLO classes by name.

    Raises ``ValueError`` for text that violates the rule ``SLO_CLASSES``.
    """
    classes: dict[str, DeclaredClass] = {}
    for declared in text.split(",") if text else ():
        name, _, target = (part.strip() for part in declared.partition("="))
        times, at, objective = (part.strip() for part in target.partition("@"))
        latency, plus, interval = (part.strip() for part in times.partition("+"))
        if name in classes or name == DEFAULT_CLASS or not _CLASS_NAME.fullmatch(name):
            raise ValueError(text)
        if target == BEST_EFFORT_NAME:
            classes[name] = DeclaredClass(*BEST_EFFORT)
            continue
        classes[name] = DeclaredClass(
            POSITIVE.parse(latency),
            SHARE.parse(objective) if at else None,
            POSITIVE.parse(interval) if plus else None,
        )
    if len(classes) > MAX_SLO_CLASSES:
        raise ValueError(text)
    return classes


DURATION_SYNTAX: Final = "such as 250ms, 30s, 1m30s or whole seconds"
TEXT: Final = Rule("any text", str)
DURATION: Final = Rule(f"a duration, {DURATION_SYNTAX}", parse_duration)
POSITIVE: Final = _where(bool, parse_duration, f"a duration above zero, {DURATION_SYNTAX}")
SHARE: Final = _where(lambda share: 0.0 < share < 1.0, float, "a number above 0 and below 1, such as 0.99")
SLO_CLASSES: Final = Rule(
    f"at most {MAX_SLO_CLASSES} of NAME=LATENCY, NAME=LATENCY+INTERVAL, either with @OBJECTIVE, or "
    f"NAME={BEST_EFFORT_NAME}, separated by commas, such as "
    f"interactive=100ms,chat=500ms+50ms@0.95,bulk={BEST_EFFORT_NAME}; each NAME once, of letters, digits, "
    f"- and _, not {DEFAULT_CLASS}",
    parse_slo_classes,
)
COUNT: Final = _or_auto(_whole(1, 4096, "a whole number from 1 to 4096"))
PORT: Final = _whole(0, 65535, "a port number from 1 to 65535, or 0 for any free one")
BODY_LENGTH: Final = _or_unset(
    _where(
        lambda size: 0 < size <= MAX_PART, parse_bytes, "a number of bytes from 1 to 4Gi - 1, such as 16Mi"
    )
)
QUEUE_BYTES: Final = _or_unset(
    _where(
        lambda size: size >= 1 << 20,
        parse_bytes,
        "a number of bytes from 1Mi and not below twice max_body_bytes, such as 256Mi",
    )
)
TRUTH: Final = _choice({"true": True, "1": True, "false": False, "0": False}, "true or false")
PATH: Final = _where(lambda path: not path or path.startswith("/"), str, "a path that begins with /")
EXPORTERS: Final = Rule("otlp, or any other text for none", _traces)
LOGGED: Final = Rule("true, missed, false, or a share above 0 and below 1, such as 0.01", _access_log)


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of the environment."""

    default: str
    rule: Rule
    meaning: str
    name: str
    after: tuple[str, ...]
    """Other names over which it takes precedence."""
    shown: str
    """The default as text; empty without one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return all of its names; the first one that is set counts."""
        return (self.name, *self.after)

    def read(self, environ: Mapping[str, str]) -> Any:
        """Return its value; an empty text counts as unset. Raises ``ConfigError``."""
        texts = [(name, text) for name in self.names if (text := environ.get(name, "").strip())]
        name, text = texts[0] if texts else (self.name, self.default)
        try:
            return self.rule.parse(text)
        except ValueError:
            raise self.error(name, text) from None

    def error(self, name: str, text: str) -> ConfigError:
        """Return the error with the variable, its value and its rule."""
        return ConfigError(name, text, f"must be {self.rule.words}")


def variable(
    default: str,
    rule: Rule,
    meaning: str,
    *,
    name: str = "",
    after: tuple[str, ...] = (),
    shown: str | None = None,
) -> Any:
    """Return a field of ``Config`` and its variable, which has the same name unless ``name`` is given."""
    shown = default if shown is None else shown
    return field(metadata={"variable": Variable(default, rule, meaning, name, after, shown)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Checked settings of one watchdog. Durations are seconds."""

    function_path: str = variable("function", TEXT, "folder that holds handler.py")
    slo_latency: float = variable(
        "500ms", POSITIVE, "latency target of a request; of a function that streams: of the first piece"
    )
    slo_interval: float = variable(
        "100ms", POSITIVE, "target of a function that streams: time to each piece after the first"
    )
    slo_objective: float = variable("0.99", SHARE, "share of requests that must meet it")
    slos: Mapping[str, Target] = variable(
        "",
        SLO_CLASSES,
        "SLO classes that requests may name in X-SLO-Class; INTERVAL defaults to slo_interval, OBJECTIVE to "
        "slo_objective",
        name="slo_classes",
    )
    """By class: the declared ones, and ``DEFAULT_CLASS``."""
    max_batch_size: int = variable(
        "256", _whole(1, 65536, "a whole number from 1 to 65536"), "most requests in one batch"
    )
    max_streams: int = variable(
        "256", _whole(1, 65536, "a whole number from 1 to 65536"), "most streams of one worker"
    )
    shed_late: bool = variable(
        "serve",
        _choice({"serve": False, "shed": True}),
        "requests past their deadline: answer them late, or refuse them with 503",
        name="late_requests",
    )
    workers: int = variable(
        "auto",
        COUNT,
        f"model processes; auto: one per CUDA device, else the CPU quota, rounded, at most "
        f"{MAX_AUTO_WORKERS}, also when the quota changes",
    )
    worker_threads: int = variable(
        "auto",
        COUNT,
        "threads of each worker's math libraries; auto: quota / workers, also when the quota changes",
    )
    max_requests: int = variable(
        "0", _whole(0, 10**9, "a whole number, 0 for never"), "requests after which a worker is replaced"
    )
    preload: str = variable(
        "auto",
        _choice(
            {"auto": "auto", "true": "true", "1": "true", "false": "false", "0": "false"},
            "auto, true or false",
        ),
        "load the model once and fork the workers from that process; "
        "auto: where a fork cannot break it, and not with CUDA devices",
    )
    load_timeout: float = variable(
        "10m",
        POSITIVE,
        "time in which the handler must be imported and load() must end; then that of the first batch",
    )
    max_inflight: int = variable(
        "4096",
        _whole(1, 10**9, "a whole number of at least 1: the queue is always bounded"),
        "most requests queued and running; beyond it 429",
    )
    max_body_bytes: int = variable(
        "",
        BODY_LENGTH,
        "longest request body",
        shown=f"{BODY_BYTES >> 20}Mi, or 1/{QUEUED_SHARE * BODY_SHARE} of the memory limit if that is less",
    )
    max_queued_bytes: int = variable(
        "",
        QUEUE_BYTES,
        "most bytes of requests, unread answers and connections together; beyond it 429",
        shown=f"{QUEUED_BYTES >> 20}Mi, or 1/{QUEUED_SHARE} of the memory limit if that is less, "
        "or twice max_body_bytes if that is more",
    )
    host: str = variable("", TEXT, "address to listen on; without one: all of IPv4 and IPv6")
    port: int = variable("8080", PORT, "HTTP port", after=("PORT",))
    metrics_port: int = variable("8081", PORT, "port of /metrics")
    read_timeout: float = variable("30s", POSITIVE, "time in which a client must send its whole request")
    write_timeout: float = variable(
        "30s", POSITIVE, "time in which a client must read an answer; if set, also the drain limit"
    )
    exec_timeout: float = variable(
        "30s", POSITIVE, "time after which a request gets 504, and a worker that hangs is ended"
    )
    healthcheck_interval: float = variable(
        "5s", DURATION, "time between failing health checks and closing the listener on SIGTERM"
    )
    ready_path: str = variable("", PATH, "function path that /_/ready calls")
    trust_start_time: bool = variable(
        "false",
        TRUTH,
        "count the time since X-Start-Time as latency; true where every request comes through a gateway that "
        "writes it, as OpenFaaS' does: otherwise clients could make requests late",
    )
    access_log: float | None = variable(
        "false",
        LOGGED,
        "requests with a log line: all (true), those that missed the SLO (missed), these and a share of the "
        "others (a number), or none but the watchdog's own errors from 500 on (false)",
    )
    """The share of good requests that have a line, from 0 to 1; all that missed have one then. None: only
    our own errors have."""
    log_format: str = variable(
        "text",
        _choice({"text": "text", "json": "json"}),
        "format of the log; one event is one line, but for tracebacks in text",
    )
    prefix_logs: bool = variable("true", TRUTH, "give the workers' lines that format, with time and stream")
    traces: bool = variable(
        "",
        EXPORTERS,
        "exporter of spans; otlp needs the extra otel, whose SDK reads the other OTEL_* variables",
        name="OTEL_TRACES_EXPORTER",
        shown="otlp if OTEL_EXPORTER_OTLP_ENDPOINT is set",
    )
    jwt_auth: bool = variable(
        "false",
        _choice({"false": False, "0": False}, "false: callers' tokens are not checked here"),
        "of-watchdog's check of callers' tokens; there is none here, so true stops the start",
    )
    asked: Asked
    """The counts that do not follow the CPU quota."""
    devices: tuple[str, ...]
    """The CUDA devices that the workers share, as ``CUDA_VISIBLE_DEVICES`` names them."""
    drain_timeout: float
    """write_timeout if it was set (of-watchdog uses it so), else ``DRAIN_SECONDS``."""
    max_connections: int
    """As many as files may be open, less what the watchdog needs."""
    kept_bytes: int
    """Freed memory that the watchdog keeps for the next bodies."""

    @property
    def max_batch_bytes(self) -> int:
        """Most bytes of bodies and answers in a batch of several requests."""
        return self.max_queued_bytes // BATCH_SHARE

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str],
        *,
        cpus: float,
        devices: tuple[str, ...] = (),
        files: int = 1024,
        memory: int | None = None,
    ) -> "Config":
        """Read the ``VARIABLES``.

        ``cpus`` (quota or affinity), CUDA ``devices``, open ``files`` and bytes of ``memory`` (None: without
        a limit) are what this container may use, for ``auto`` and for the bounds of what clients hold.
        Raises ``ConfigError`` that names the variable, its value and the rule.
        """
        for name, instead in REMOVED.items():
            if text := environ.get(name, "").strip():
                raise ConfigError(name, text, instead)
        values = {name: declared.read(environ) for name, declared in VARIABLES.items()}
        slo_latency, exec_timeout = values["slo_latency"], values["exec_timeout"]
        if slo_latency > exec_timeout:
            name, rule = "slo_latency", f"must be at most exec_timeout ({exec_timeout:g} s)"
            if environ.get("exec_timeout", "").strip():
                name, rule = "exec_timeout", f"must be at least slo_latency ({slo_latency:g} s)"
            raise ConfigError(name, environ[name].strip(), rule)
        _check_ports(environ, values["port"], values["metrics_port"])
        own = Target(slo_latency, values["slo_objective"], values["slo_interval"])
        declared: dict[str, DeclaredClass] = values["slos"]
        values["slos"] = {DEFAULT_CLASS: own} | {
            name: Target(
                target.latency,
                own.objective if target.objective is None else target.objective,
                own.interval if target.interval is None else target.interval,
            )
            for name, target in declared.items()
        }
        late = [name for name, target in declared.items() if exec_timeout < target.latency < inf]
        if late:
            rule = f"must be latencies up to exec_timeout ({exec_timeout:g} s), and that of {late[0]} is not"
            raise ConfigError("slo_classes", environ["slo_classes"].strip(), rule)
        values["asked"] = Asked(values["workers"] or len(devices) or None, values["worker_threads"])
        values["workers"], values["worker_threads"] = values["asked"].counts(cpus)
        least = LEAST_FILES + values["workers"]
        if files < least:
            rule = f"the limit on open files must be at least {least} (workers={values['workers']})"
            raise ConfigError("ulimit -n", str(files), rule)
        if values["preload"] == "auto" and (devices or "," in environ.get("CUDA_VISIBLE_DEVICES", "")):
            # load() would take a device, which a forked process cannot use; each worker needs its own share.
            values["preload"] = "false"
        values["max_connections"] = max(1, files - RESERVED_FILES - values["workers"])
        values["traces"] = _exports(values["traces"], environ)
        _bound_memory(values, environ, memory)
        drain_timeout = values["write_timeout"] if environ.get("write_timeout", "").strip() else DRAIN_SECONDS
        return cls(**values, devices=devices, drain_timeout=drain_timeout)


def _bound_memory(values: dict[str, Any], environ: Mapping[str, str], memory: int | None) -> None:
    """Set the bounds of what clients hold that the environment does not set, by the limit of ``memory``."""
    room, values["kept_bytes"] = QUEUED_BYTES, KEPT_BYTES
    if memory is not None:
        room = min(room, max(1 << 20, memory // QUEUED_SHARE))
        values["kept_bytes"] = min(KEPT_BYTES, memory // KEPT_SHARE)
    if values["max_body_bytes"] is None:
        values["max_body_bytes"] = min(BODY_BYTES, room // BODY_SHARE)
    largest = 2 * values["max_body_bytes"]
    if values["max_queued_bytes"] is None:
        values["max_queued_bytes"] = max(room, largest)
    elif values["max_queued_bytes"] < largest:
        raise VARIABLES["max_queued_bytes"].error("max_queued_bytes", environ["max_queued_bytes"].strip())


def _exports(chosen: bool | None, environ: Mapping[str, str]) -> bool:
    """Return whether spans are exported: as chosen, else if OpenTelemetry's endpoint is set."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return any(environ.get(name, "").strip() for name in _ENDPOINTS) if chosen is None else chosen


def _check_ports(environ: Mapping[str, str], port: int, metrics_port: int) -> None:
    if port and port == metrics_port:
        named = [name for name in VARIABLES["port"].names if environ.get(name, "").strip()]
        name, other = (named[0], "metrics_port") if named else ("metrics_port", "port")
        raise ConfigError(name, environ[name].strip(), f"must differ from {other} ({port})")


VARIABLES: Final[Mapping[str, Variable]] = {
    item.name: replace(item.metadata["variable"], name=item.metadata["variable"].name or item.name)
    for item in fields(Config)
    if item.metadata
}
"""Field of ``Config`` -> its variable."""


LEAST_NAME: Final = 9
"""Fewest characters of a setting's name to look for near ones: WORKER or POST may mean anything."""

LEAST_LIKENESS: Final = 0.9
"""By ``difflib``: one letter more, less or else of ten."""

_SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://")
"""Begin of a value that Kubernetes sets: METRICS_PORT belongs to the Service ``metrics``."""


def ignored(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that is probably meant for the watchdog, and has no effect.

    A near name may be the handler's own, so it is no error.
    """
    names = [name for declared in VARIABLES.values() for name in declared.names]
    long = {name.lower(): name for name in names if len(name) >= LEAST_NAME}
    return [
        f"{name} is not a setting of the watchdog; did you mean {long[near]}?"
        for name, text in environ.items()
        if name not in names and text.strip() and not _SERVICE_LINK.match(text)
        for near in get_close_matches(name.lower(), long, n=1, cutoff=LEAST_LIKENESS)
    ]


def _descriptions() -> dict[str, str]:
    lines = {}
    for declared in VARIABLES.values():
        name = declared.name
        lines[name] = f"{declared.meaning} ({declared.rule.words}) [{declared.shown or 'none'}]"
        lines |= dict.fromkeys(declared.after, f"other name of {name}, which wins over it")
    return lines


DESCRIPTIONS: Final[Mapping[str, str]] = _descriptions()
"""Name of each variable -> its line in --help."""
