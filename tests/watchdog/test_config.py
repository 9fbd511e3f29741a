import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.config import (
    DESCRIPTIONS,
    DRAIN_SECONDS,
    MAX_SLO_CLASSES,
    REMOVED,
    VARIABLES,
    Config,
    ignored,
    parse_duration,
)
from batching_watchdog.errors import ConfigError
from batching_watchdog.function.messages import BEST_EFFORT, Target

TOO_LONG = "9" * 5000
"""Beyond what int() converts (sys.set_int_max_str_digits)."""
BAD_DURATIONS = ["-1s", "+1s", "1.5", "5 s", "s", "1d", "1s5", "nan", "1e3", "9" * 400, "300000000h", "٣s"]
BAD_WHOLE = ["-1", "1.5", "x", "1e3", "٣", "1_0", TOO_LONG]
BAD_PORTS = [*BAD_WHOLE, "65536", "tcp://10.0.0.1:80"]
ANY_TEXT = {"function_path", "host", "OTEL_TRACES_EXPORTER"}
INVALID: dict[str, list[str]] = {
    "slo_latency": [*BAD_DURATIONS, "0", "0s", "0ms", "30001ms"],
    "slo_objective": ["0", "1", "1.0", "99", "-0.5", "nan", "inf", "x", "0.99%"],
    "slo_classes": [
        *(
            "a=best-effort@0.9",
            "default=best-effort",
            "a=best-effort+1s",
            "a",
            "=1s",
            "a=",
            "a=0s",
            "a=1.5",
            "a=1s,",
            ",a=1s",
            "a=1s;b=2s",
            "a=31s",
            "a=1s@",
            "a=1s@1",
        ),
        *("a=1s@x", "a=1s@0.9@0.9", "a=1s+", "a=1s+0s", "a=+1s", "a=1s+1s+1s", "a=1s@0.9+1s"),
        *("a=1s,a=2s", "default=1s", "a b=1s", "ä=1s", 'a"=1s', "a=1s=2s", "a" * 65 + "=1s"),
        ",".join(f"c{number}=1s" for number in range(MAX_SLO_CLASSES + 1)),
    ],
    "slo_interval": [*BAD_DURATIONS, "0", "0s"],
    "max_streams": [*BAD_WHOLE, "0", "65537"],
    "max_batch_size": [*BAD_WHOLE, "0", "65537"],
    "late_requests": ["drop", "Serve", "true"],
    "workers": [*BAD_WHOLE, "0", "AUTO", "4097"],
    "worker_threads": [*BAD_WHOLE, "0", "AUTO"],
    "max_requests": BAD_WHOLE,
    "preload": ["yes", "True", "2"],
    "load_timeout": [*BAD_DURATIONS, "0", "0s"],
    "max_inflight": [*BAD_WHOLE, "0"],
    "max_body_bytes": ["-1", "0", "0Gi", "1.5Mi", "16M", "16MB", "Mi", "4Gi", "4294967296", "٣", TOO_LONG],
    "max_queued_bytes": ["-1", "0", "1048575", "33554431", "1M", "x", TOO_LONG],
    "port": BAD_PORTS,
    "PORT": BAD_PORTS,
    "metrics_port": BAD_PORTS,
    "read_timeout": [*BAD_DURATIONS, "0"],
    "write_timeout": [*BAD_DURATIONS, "0s"],
    "exec_timeout": [*BAD_DURATIONS, "0s", "499ms"],
    "healthcheck_interval": BAD_DURATIONS,
    "ready_path": ["-", "ready", "http://x/"],
    "trust_start_time": ["yes", "True", "2"],
    "access_log": ["yes", "True", "2", "1.0", "0.0", "-0.1", "nan", "1%"],
    "log_format": ["JSON", "logfmt"],
    "prefix_logs": ["yes", "True", "2"],
    "jwt_auth": ["true", "1", "yes"],
}
VALID: dict[str, tuple[str, str, object]] = {
    "function_path": ("/srv/fn", "function_path", "/srv/fn"),
    "slo_latency": ("200ms", "slo_latency", 0.2),
    "slo_objective": ("0.999", "slo_objective", 0.999),
    "slo_classes": (
        "interactive=100ms, batch-2_x = 2s@0.95",
        "slos",
        {
            "default": Target(0.5, 0.99, 0.1),
            "interactive": Target(0.1, 0.99, 0.1),
            "batch-2_x": Target(2.0, 0.95, 0.1),
        },
    ),
    "slo_interval": ("50ms", "slo_interval", 0.05),
    "max_streams": ("8", "max_streams", 8),
    "max_batch_size": ("65536", "max_batch_size", 65536),
    "late_requests": ("shed", "shed_late", True),
    "workers": ("3", "workers", 3),
    "worker_threads": ("7", "worker_threads", 7),
    "max_requests": ("1000", "max_requests", 1000),
    "preload": ("1", "preload", "true"),
    "load_timeout": ("1h", "load_timeout", 3600.0),
    "max_inflight": ("1", "max_inflight", 1),
    "max_body_bytes": ("4294967295", "max_body_bytes", 2**32 - 1),
    "max_queued_bytes": ("32Mi", "max_queued_bytes", 2**25),
    "trust_start_time": ("1", "trust_start_time", True),
    "access_log": ("0.01", "access_log", 0.01),
    "log_format": ("json", "log_format", "json"),
    "OTEL_TRACES_EXPORTER": ("console, otlp", "traces", True),
    "host": ("127.0.0.1", "host", "127.0.0.1"),
    "port": ("0", "port", 0),
    "PORT": ("9000", "port", 9000),
    "metrics_port": ("65535", "metrics_port", 65535),
    "read_timeout": ("1", "read_timeout", 1.0),
    "write_timeout": ("2", "write_timeout", 2.0),
    "exec_timeout": ("1m30s", "exec_timeout", 90.0),
    "healthcheck_interval": ("0", "healthcheck_interval", 0.0),
    "ready_path": ("/ready", "ready_path", "/ready"),
    "prefix_logs": ("0", "prefix_logs", False),
    "jwt_auth": ("0", "jwt_auth", False),
}
DEPENDENT = {
    "workers": {"asked", "worker_threads", "max_connections"},
    "worker_threads": {"asked"},
    "write_timeout": {"drain_timeout"},
    "max_body_bytes": {"max_queued_bytes"},
    **{name: {"slos"} for name in ("slo_latency", "slo_objective", "slo_interval")},
}


def read(cpus: float = 2.0, devices: tuple[str, ...] = (), **environ: str) -> Config:
    return Config.from_env(environ, cpus=cpus, devices=devices)


MIB = 1 << 20


@pytest.mark.parametrize(
    ("memory", "environ", "bounds"),
    [
        (None, {}, (16 * MIB, 256 * MIB, 64 * MIB)),
        (64 * 1024 * MIB, {}, (16 * MIB, 256 * MIB, 64 * MIB)),
        (256 * MIB, {}, (8 * MIB, 32 * MIB, 16 * MIB)),
        (256 * MIB, {"max_body_bytes": "32Mi"}, (32 * MIB, 64 * MIB, 16 * MIB)),
        (256 * MIB, {"max_queued_bytes": "128Mi"}, (8 * MIB, 128 * MIB, 16 * MIB)),
        (MIB, {}, (MIB // 4, MIB, MIB // 16)),
    ],
)
def test_what_clients_may_hold_is_a_share_of_the_memory_limit_unless_it_is_set(memory, environ, bounds):
    config = Config.from_env(environ, cpus=1.0, memory=memory)
    assert (config.max_body_bytes, config.max_queued_bytes, config.kept_bytes) == bounds


def test_class_without_an_objective_has_the_functions_own():
    others = ",".join(f"c{number}=1s" for number in range(MAX_SLO_CLASSES - 2))
    classes = read(slo_classes=f"a=1s,b=2s@0.5,{others}", slo_objective="0.9").slos
    assert [classes["a"].objective, classes["b"].objective] == [0.9, 0.5]


def test_class_of_best_effort_has_no_deadline():
    assert read(slo_classes="bulk=best-effort").slos["bulk"] == BEST_EFFORT


@pytest.mark.parametrize(
    "environ",
    [
        {"slo_latency": "31s"},
        {"slo_latency": "2s", "exec_timeout": "1s"},
        {"slo_classes": "a=1s,b=2s", "exec_timeout": "1s"},
    ],
)
def test_target_beyond_the_timeout_is_refused_with_both_names(environ: dict[str, str]):
    with pytest.raises(ConfigError, match=r"slo_.*exec_timeout|exec_timeout.*slo_"):
        read(**environ)
    assert read(slo_latency="1s", slo_classes="a=1s", exec_timeout="1s").slo_latency == 1.0


def test_every_variable_is_tested_here():
    assert set(VALID) == set(DESCRIPTIONS)
    assert set(INVALID) == set(DESCRIPTIONS) - ANY_TEXT


@pytest.mark.parametrize("variable", VALID)
def test_valid_value_is_taken_over_and_changes_nothing_else(variable: str):
    text, field, value = VALID[variable]
    config, default = read(**{variable: text}), read()
    assert getattr(config, field) == value
    changed = {
        each.name for each in fields(Config) if getattr(config, each.name) != getattr(default, each.name)
    }
    assert changed - DEPENDENT.get(variable, set()) <= {field}


@pytest.mark.parametrize(
    ("variable", "text"), [(variable, text) for variable, texts in INVALID.items() for text in texts]
)
def test_invalid_value_names_variable_value_and_rule(variable: str, text: str):
    with pytest.raises(ConfigError) as caught:
        read(**{variable: text})
    assert caught.value.variable == variable
    assert str(caught.value).startswith(f"{variable}={text!r}: must be")


@pytest.mark.parametrize("name", REMOVED)
def test_removed_variable_ends_the_start_and_is_named(name: str):
    with pytest.raises(ConfigError) as caught:
        read(**{name: "slo"})
    assert caught.value.variable == name


@given(st.sampled_from(sorted(DESCRIPTIONS)), st.text(max_size=20))
def test_any_text_gives_a_configuration_or_a_config_error_for_its_variable(variable: str, text: str):
    try:
        config = read(**{variable: text})
    except ConfigError as error:
        if error.variable != variable:
            raise
        return
    values = [getattr(config, each.name) for each in fields(Config)]
    assert all(math.isfinite(value) for value in values if isinstance(value, float))


@pytest.mark.parametrize("blank", ["", "  "])
def test_empty_value_counts_as_unset(blank: str):
    assert read(**dict.fromkeys(DESCRIPTIONS, blank)) == read()


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"PORT": "9000", "port": "8085"}, "port", 8085),
        ({"PORT": "tcp://10.0.0.1:80", "port": "8085"}, "port", 8085),
    ],
)
def test_of_several_names_of_a_variable_the_stronger_one_counts(
    environ: dict[str, str], field: str, value: object
):
    assert getattr(read(**environ), field) == value


@pytest.mark.parametrize(
    ("devices", "environ", "preload"),
    [
        ((), {}, "auto"),
        (("0",), {}, "false"),
        (("0",), {"preload": "true"}, "true"),
        ((), {"CUDA_VISIBLE_DEVICES": "0,1"}, "false"),
    ],
)
def test_handler_is_preloaded_by_default_but_not_with_cuda_devices(
    devices: tuple[str, ...], environ: dict[str, str], preload: str
):
    assert read(devices=devices, **environ).preload == preload


@pytest.mark.parametrize(
    ("cpus", "devices", "asked", "workers", "threads"),
    [
        *(
            (0.25, 0, "", 1, 1),
            (1.4, 0, "", 1, 1),
            (1.5, 0, "", 2, 1),
            (2.9, 0, "", 3, 1),
            (8.0, 0, "", 4, 2),
            (64, 0, "", 4, 16),
        ),
        *((8.0, 0, "2", 2, 4), (2.0, 0, "4", 4, 1), (2.0, 5, "", 5, 1), (2.0, 1, "3", 3, 1)),
    ],
)
def test_auto_follows_the_cpu_quota_and_the_devices(
    cpus: float, devices: int, asked: str, workers: int, threads: int
):
    config = read(cpus, tuple(map(str, range(devices))), workers=asked)
    assert (config.workers, config.worker_threads) == (workers, threads)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"port": "8081"}, "port='8081'"),
        ({"PORT": "8081"}, "PORT='8081'"),
        ({"metrics_port": "8080"}, "metrics_port='8080'"),
    ],
)
def test_one_port_for_requests_and_metrics_ends_the_start(environ: dict[str, str], named: str):
    with pytest.raises(ConfigError, match=named):
        read(**environ)
    assert read(port="0", metrics_port="0").port == 0


def test_too_few_open_files_end_the_start_with_the_limit():
    with pytest.raises(ConfigError, match="ulimit -n='16'"):
        Config.from_env({}, cpus=2.0, files=16)


@pytest.mark.parametrize(("files", "connections"), [(1024, 893), (100, 1)])
def test_connections_leave_files_to_the_workers_and_the_watchdog(files: int, connections: int):
    config = Config.from_env({"workers": "3"}, cpus=2.0, files=files)
    assert config.max_connections == connections


def test_write_timeout_is_the_drain_limit_only_if_it_was_set():
    assert read().drain_timeout == DRAIN_SECONDS
    assert read(write_timeout="40s").drain_timeout == 40.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("0", 0.0), ("30", 30.0), ("1h", 3600.0), ("1.5s", 1.5), (".5s", 0.5), ("2.s", 2.0)),
        *(("10us", 1e-5), ("10µs", 1e-5), ("10μs", 1e-5), ("5ns", 5e-9), ("1h1m1s1ms", 3661.001)),
    ],
)
def test_durations_are_go_syntax_or_whole_seconds(text: str, seconds: float):
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "traces"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "console"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_spans_are_sent_if_opentelemetrys_variables_ask_for_it(environ: dict[str, str], traces: bool):
    assert read(**environ).traces == traces


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("SLO_LATENCY", "slo_latency"),
        ("slo_latencyy", "slo_latency"),
        ("slo_latncy", "slo_latency"),
        ("slo_latancy", "slo_latency"),
        ("slo_latnecy", "slo_latency"),
        ("Metrics_Port", "metrics_port"),
        ("otel_traces_exporter", "OTEL_TRACES_EXPORTER"),
    ],
)
def test_ignored_variable_near_a_setting_is_named_with_it(name: str, setting: str):
    (line,) = ignored({"slo_objective": "0.9", name: "1s"})
    assert name in line
    assert setting in line.replace(name, "")


COMMON = """
PATH HOME HOSTNAME LANG PWD TERM USER TZ TMPDIR HTTP_PROXY https_proxy NO_PROXY LD_PRELOAD POST PORTS
WORKERS WEB_CONCURRENCY GPG_KEY PYTHON_VERSION PYTHON_SHA256 PYTHON_PIP_VERSION PYTHONUNBUFFERED PYTHONPATH
OMP_NUM_THREADS CUDA_VISIBLE_DEVICES KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT
KUBERNETES_PORT_443_TCP_ADDR GATEWAY_PORT OPENFAAS_NAME OPENFAAS_NAMESPACE K_SERVICE K_REVISION
K_CONFIGURATION CI GITHUB_ACTIONS GITHUB_WORKSPACE GITHUB_PATH RUNNER_OS OTEL_METRICS_EXPORTER
OTEL_LOGS_EXPORTER OTEL_EXPORTER_OTLP_ENDPOINT OTEL_SERVICE_NAME mode cgi_headers combine_output
content_type write_debug read_debug buffer_http http_buffer_req_body static_path hard_timeout
log_buffer_size log_call_id jwt_auth_debug jwt_auth_local suppress_lock marshal_request debug_headers
secret_mount_path fprocess function_process upstream_url http_upstream_url
"""
"""Of shells, the Python image, Kubernetes, OpenFaaS, Knative, GitHub, OpenTelemetry and of-watchdog."""


def test_ignored_common_environment_has_no_line():
    settings = {
        name: "1" for each in VARIABLES.values() for name in each.names if name != "OTEL_TRACES_EXPORTER"
    }
    links = {"METRICS_PORT": "tcp://10.96.0.1:80", "READY_PATH": " "}
    assert ignored(dict.fromkeys(COMMON.split(), "1") | settings | links) == []
