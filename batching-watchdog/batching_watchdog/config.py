"""The environment as a frozen ``Config``. [P]

Owns every variable's name, default and rule. of-watchdog's names are kept where the meaning is the same
(https://github.com/openfaas/of-watchdog#configuration), but a bad value stops the start instead of
falling back silently. CPUs and CUDA devices are arguments: reading them is ``machine``'s business.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

from batching_watchdog.engine.policy import POLICIES
from batching_watchdog.errors import ConfigError
from batching_watchdog.wire import MAX_PART

_T = TypeVar("_T")

MAX_AUTO_WORKERS: Final = 4
"""Each worker holds a copy of the model, so ``auto`` never takes more than this many for the CPUs."""

DRAIN_SECONDS: Final = 15.0
"""Default limit on finishing admitted requests: with the default healthcheck_interval and the stop of the
workers it stays below 25 s, so that a pod's 30 s of grace are enough."""

QUEUED_BYTES: Final = 1 << 28

DESCRIPTIONS: Final[dict[str, str]] = {
    "function_path": "folder that holds handler.py [function]",
    "slo_latency": "latency target of a request, e.g. 200ms [500ms]",
    "slo_objective": "share of requests that must meet it, between 0 and 1 [0.99]",
    "batch_policy": f"one of {', '.join(sorted(POLICIES))} [slo]",
    "max_batch_size": "most requests in one batch [256]",
    "max_batch_delay": "how long policy fixed waits for company [0s]",
    "late_requests": "serve | shed: what becomes of a request past its deadline [serve]",
    "workers": "model processes, or auto: one per CUDA device, else the CPU quota, at most 4 [auto]",
    "worker_threads": "threads of each worker's maths libraries, or auto: quota / workers [auto]",
    "worker_priority": "low | normal: low lets the watchdog's HTTP go before the models on a busy CPU [low]",
    "max_requests": "requests after which a worker is replaced, 0 for never [0]",
    "preload": "true | false: load the model once and share it between the workers [false]",
    "max_inflight": "most requests queued and running; beyond it 429 [4096]",
    "max_body_bytes": "longest request body, below 4Gi; Ki, Mi, Gi are understood [16Mi]",
    "max_queued_bytes": "most bytes of bodies queued and running; beyond it 429 [256Mi or max_body_bytes]",
    "port": "HTTP port, 0 for any free one [8080]",
    "PORT": "other name of port, which Knative sets; port wins if both are set",
    "metrics_port": "port of /metrics, 0 for any free one [8081]",
    "read_timeout": "time in which a client must send its whole request [30s]",
    "write_timeout": "time a client may stall while reading an answer; if set, also the drain limit [30s]",
    "exec_timeout": "time after which a request is given up with 504 [30s]",
    "healthcheck_interval": "time between failing health checks and closing the listener on SIGTERM [5s]",
    "ready_path": "function path that /_/ready calls [none]",
    "access_log": "which requests have a line: true (all), missed (those that missed the SLO), a share such "
    "as 0.01 (these, and that share of the others), false (our own errors from 500 on) [false]",
    "log_format": "text | json: one event is one line in both [text]",
    "prefix_logs": "true | false: put the workers' lines into that format, with time and stream [true]",
    "upstream_url": "http://host:port/path that answers batches in place of Python workers [none]",
    "http_upstream_url": "other name of upstream_url; wins if both are set",
    "fprocess": "with upstream_url: the command that serves it, split on spaces; ignored otherwise [none]",
    "function_process": "other name of fprocess; wins if both are set",
    "jwt_auth": "of-watchdog's check of who calls; there is none here, so true stops the start [false]",
}

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_GO_DURATION: Final = re.compile(rf"(?:{_GO_PART.pattern})+", re.ASCII)
_BYTES: Final = re.compile(r"(\d+)(Ki|Mi|Gi)?", re.ASCII)
_FACTORS: Final = {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_LONGEST: Final = (2**63 - 1) / 1e9
"""Seconds: the longest duration in Go, some 292 years. Infinity, of all things, would pass as a number."""


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """An http:// URL, taken apart: where to connect, and what to ask for there."""

    host: str
    port: int
    target: str
    """Path and query."""
    authority: str
    """The Host header."""

    def __str__(self) -> str:
        return f"http://{self.authority}{self.target}"


@dataclass(frozen=True, slots=True)
class Config:
    """Checked settings of one watchdog. Durations are seconds."""

    function_path: str
    slo_latency: float
    slo_objective: float
    batch_policy: str
    max_batch_size: int
    max_batch_delay: float
    shed_late: bool
    workers: int
    worker_threads: int
    low_priority: bool
    """Whether the workers run at the kernel's idle priority, behind the watchdog."""
    max_requests: int
    """0: a worker is never replaced for its age."""
    preload: bool
    devices: tuple[str, ...]
    """The CUDA devices that the workers share, as ``CUDA_VISIBLE_DEVICES`` names them."""
    max_inflight: int
    max_body_bytes: int
    max_queued_bytes: int
    port: int
    metrics_port: int
    read_timeout: float
    write_timeout: float
    exec_timeout: float
    healthcheck_interval: float
    drain_timeout: float
    """write_timeout if it was set (of-watchdog uses it so), else ``DRAIN_SECONDS``."""
    ready_path: str
    access_log: float | None
    """The share of good requests that have a line, from 0 to 1; all that missed have one then. None: only
    our own errors have."""
    log_format: str
    prefix_logs: bool
    upstream_url: HttpUrl | None
    """If set there are no Python workers: batches are POSTed to it."""
    fprocess: tuple[str, ...]

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, cpus: float, devices: tuple[str, ...] = ()) -> "Config":
        """Read the variables of ``DESCRIPTIONS``; an empty value counts as unset.

        ``cpus`` (quota or affinity) and CUDA ``devices`` are what this container may use, for ``auto``.
        Raises ``ConfigError`` that names the variable, its value and the rule.
        """

        def read(name: str, default: str, parse: Callable[[str], _T], rule: str) -> _T:
            text = environ.get(name, "").strip() or default
            try:
                return parse(text)
            except ValueError:
                raise ConfigError(name, text, rule) from None

        syntax = "such as 250ms, 30s or 1m30s (a plain whole number is seconds)"
        positive = f"must be a duration above zero, {syntax}"
        duration = f"must be a duration, {syntax}"
        workers = read(
            "workers",
            "auto",
            _or_auto(len(devices) or max(1, min(MAX_AUTO_WORKERS, int(cpus)))),
            "must be auto or a whole number of at least 1",
        )
        upstreams = [
            read(name, "", _url, "must be a URL such as http://127.0.0.1:5000/")
            for name in ("http_upstream_url", "upstream_url")
        ]
        commands = [environ.get(name, "").split() for name in ("function_process", "fprocess")]
        max_body_bytes = read(
            "max_body_bytes",
            "16Mi",
            _frameable,
            "must be a number of bytes from 1 to 4Gi - 1, such as 16Mi",
        )
        write_timeout = read("write_timeout", "30s", _positive(parse_duration), positive)
        # Read for this alone: what its owner believes to be protected must not be served to everybody.
        read(
            "jwt_auth", "false", _one_of("false", "0"), "must be false: callers' tokens are not checked here"
        )
        return cls(
            function_path=environ.get("function_path", "").strip() or "function",
            slo_latency=read("slo_latency", "500ms", _positive(parse_duration), positive),
            slo_objective=read(
                "slo_objective", "0.99", _share, "must be a number above 0 and below 1, such as 0.99"
            ),
            batch_policy=read(
                "batch_policy", "slo", _one_of(*POLICIES), f"must be one of {', '.join(sorted(POLICIES))}"
            ),
            max_batch_size=read(
                "max_batch_size", "256", _whole(1, 65536), "must be a whole number from 1 to 65536"
            ),
            max_batch_delay=read("max_batch_delay", "0s", parse_duration, duration),
            shed_late=read("late_requests", "serve", _one_of("serve", "shed"), "must be serve or shed")
            == "shed",
            workers=workers,
            worker_threads=read(
                "worker_threads",
                "auto",
                _or_auto(max(1, int(cpus / workers))),
                "must be auto or a whole number of at least 1",
            ),
            low_priority=read("worker_priority", "low", _one_of("low", "normal"), "must be low or normal")
            == "low",
            max_requests=read("max_requests", "0", _whole(0, 10**9), "must be a whole number, 0 for never"),
            preload=read("preload", "false", _truth, "must be true or false"),
            devices=devices,
            max_inflight=read(
                "max_inflight",
                "4096",
                _whole(1, 10**9),
                "must be a whole number of at least 1 (the queue is always bounded)",
            ),
            max_body_bytes=max_body_bytes,
            max_queued_bytes=read(
                "max_queued_bytes",
                str(max(QUEUED_BYTES, max_body_bytes)),
                _bytes_from(max_body_bytes),
                f"must be a number of bytes not below max_body_bytes ({max_body_bytes}), such as 256Mi",
            ),
            port=read(
                "port" if environ.get("port", "").strip() else "PORT",
                "8080",
                _whole(0, 65535),
                "must be a port number, 0 to 65535",
            ),
            metrics_port=read("metrics_port", "8081", _whole(0, 65535), "must be a port number, 0 to 65535"),
            read_timeout=read("read_timeout", "30s", _positive(parse_duration), positive),
            write_timeout=write_timeout,
            exec_timeout=read("exec_timeout", "30s", _positive(parse_duration), positive),
            healthcheck_interval=read("healthcheck_interval", "5s", parse_duration, duration),
            drain_timeout=write_timeout if environ.get("write_timeout", "").strip() else DRAIN_SECONDS,
            ready_path=read("ready_path", "", _path, "must begin with /"),
            access_log=read(
                "access_log",
                "false",
                _access_log,
                "must be true, missed, false, or a share above 0 and below 1, such as 0.01",
            ),
            log_format=read("log_format", "text", _one_of("text", "json"), "must be text or json"),
            prefix_logs=read("prefix_logs", "true", _truth, "must be true or false"),
            upstream_url=upstreams[0] or upstreams[1],
            fprocess=tuple(commands[0] or commands[1]),
        )


def parse_duration(text: str) -> float:
    """Seconds in ``text``: Go's syntax (``1m30s``, ``250ms``) or a plain number of seconds.

    Raises ``ValueError`` for anything else, negative values and more than Go's longest included.
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
    """Bytes in ``text``: a whole number, optionally with Kubernetes' suffix Ki, Mi or Gi."""
    match = _BYTES.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * _FACTORS[match[2]]


def parse_http_url(text: str) -> HttpUrl:
    """``text`` as an http:// URL without user and fragment. Raises ``ValueError``."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(text)
    parts = urlsplit(text)
    port = 80 if parts.port is None else parts.port
    if parts.scheme != "http" or not parts.hostname or "@" in parts.netloc or parts.fragment or not port:
        raise ValueError(text)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return HttpUrl(parts.hostname, port, target, parts.netloc)


def _url(text: str) -> HttpUrl | None:
    return parse_http_url(text) if text else None


def _frameable(text: str) -> int:
    value = parse_bytes(text)
    if not 0 < value <= MAX_PART:
        raise ValueError(text)
    return value


def _bytes_from(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = parse_bytes(text)
        if value < low:
            raise ValueError(text)
        return value

    return parse


def _positive(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    def parse_positive(text: str) -> _T:
        value = parse(text)
        if not value:
            raise ValueError(text)
        return value

    return parse_positive


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not low <= int(text) <= high:
            raise ValueError(text)
        return int(text)

    return parse


def _or_auto(auto: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        return auto if text == "auto" else _whole(1, 4096)(text)

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return parse


def _truth(text: str) -> bool:
    return _one_of("true", "1", "false", "0")(text) in ("true", "1")


def _access_log(text: str) -> float | None:
    if text == "missed":
        return 0.0
    if text in ("true", "1", "false", "0"):
        return 1.0 if _truth(text) else None
    return _share(text)


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise ValueError(text)
    return value


def _path(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError(text)
    return text
