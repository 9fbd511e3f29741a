"""Queries the autoscaler on this machine, at ``--url`` or in the cluster, for ``explain`` and ``status``.

Owns its address, the forwarded port, the time limits, and the messages about a missing answer.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from slo_autoscaler.cli import Caller
from slo_autoscaler.config import read_web
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.settings.fields import host_and_port

TIMEOUT: Final = 10.0
"""Time limit of an answer, and of each call of kubectl, in seconds."""

SELECTOR: Final = "app.kubernetes.io/name=slo-autoscaler"
"""Labels of the autoscaler's pods, as the chart sets them."""

PORT, PAGE_PORT = "metrics", "8083"
"""Ports of such a pod: /decisions is on the one with a name, the page on loopback."""

_FORWARDING: Final = re.compile(r"Forwarding from (127\.0\.0\.1:\d+) ->")

EVERYWHERE: Final = ("0.0.0.0", "::", "")  # noqa: S104  (compared with, never listened on)


class NoAnswerError(Exception):
    """The autoscaler does not answer, or another server does; the one-line message names the address."""


@contextmanager
def reached(
    flags: argparse.Namespace, caller: Caller, overrides: Mapping[str, object] | None = None, *, page: bool
) -> Iterator[str]:
    """Give the URL at which the autoscaler's port, or its page, is reached while the block runs.

    Raises ``ConfigError`` and ``NoAnswerError``.
    """
    if caller.forwards and flags.url is None and flags.config is None:
        with forwarded(PAGE_PORT if page else PORT, flags.autoscaler) as url:
            yield url
        return
    web = read_web(flags.config, overrides)
    if page:
        yield address(flags.url, web.page_host, web.page_port, "web.page_port")
    else:
        yield address(flags.url, web.host, web.port, "web.port")


@contextmanager
def forwarded(port: str, namespace: str | None = None) -> Iterator[str]:
    """Give the URL of a port of the leading autoscaler while the block runs. Raises ``NoAnswerError``.

    ``namespace`` None looks in all. kubectl has the credentials, and forwards.
    """
    where, pod = _pod(namespace)
    command = ["kubectl", "port-forward", "--namespace", where, f"pod/{pod}", f":{port}"]
    with subprocess.Popen(  # noqa: S603 - no shell
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        assert running.stdout is not None  # noqa: S101 - a pipe
        limit = threading.Timer(TIMEOUT, running.kill)
        limit.start()
        try:
            told = ""
            for line in running.stdout:
                if forwarding := _FORWARDING.match(line):
                    break
                told = line
            else:
                raise NoAnswerError(f"kubectl port-forward to {where}/{pod}: {told.strip() or 'no answer'}")
            limit.cancel()
            # It writes a line for each connection: a full pipe would stop it.
            threading.Thread(target=running.stdout.read, daemon=True).start()
            yield f"http://{forwarding[1]}"
        finally:
            limit.cancel()
            running.kill()


def _pod(namespace: str | None) -> tuple[str, str]:
    """Return namespace and name of the autoscaler's pod, of several the leader's."""
    among = ["--all-namespaces"] if namespace is None else ["--namespace", namespace]
    running = ["--selector", SELECTOR, "--field-selector", "status.phase=Running"]
    pods = [pod["metadata"] for pod in _kubectl("pods", *among, *running)]
    releases = {(pod["namespace"], pod["labels"].get("app.kubernetes.io/instance")) for pod in pods}
    if len(releases) != 1:
        names = ", ".join(sorted(f"{where}/{release}" for where, release in releases))
        trouble = f"several autoscalers run: {names}" if releases else f"no pod with {SELECTOR} runs"
        raise NoAnswerError(f"{trouble}; --autoscaler takes the namespace of one, --url an address")
    where, name = pods[0]["namespace"], pods[0]["name"]
    if len(pods) > 1:
        holders = {
            str(lease["spec"].get("holderIdentity")) for lease in _kubectl("leases", "--namespace", where)
        }
        leading = [pod["name"] for pod in pods if any(holder.startswith(pod["name"]) for holder in holders)]
        name = (leading or [name])[0]
    return where, name


def _kubectl(kind: str, *words: str) -> list[dict[str, Any]]:
    """Return objects of a kind. Raises ``NoAnswerError``."""
    command = ["kubectl", "get", kind, "--output", "json", *words]
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            command, capture_output=True, text=True, timeout=TIMEOUT, check=True
        )
    except subprocess.CalledProcessError as error:
        hint = "; --autoscaler takes its namespace, --url its address"
        *_, why = error.stderr.splitlines() or [f"status {error.returncode}"]
        raise NoAnswerError(f"kubectl get {kind}: {why}{hint}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAnswerError(f"kubectl get {kind}: {error}") from None
    items: list[dict[str, Any]] = json.loads(done.stdout)["items"]
    return items


def qualified(function: str, namespace: str | None) -> str:
    """Return name.namespace where a namespace is given."""
    return function if namespace is None else f"{function}.{namespace}"


def address(url: str | None, host: str, port: int | None, key: str) -> str:
    """Return ``url``, or the address in the configuration. Raises ``ConfigError``.

    ``key`` is the configuration key of the port.
    """
    if url is not None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError([f"--url: {url!r} must be an http:// or https:// URL"])
        return url.rstrip("/")
    if not port:
        why = "null: there is no page" if port is None else "0 is any port: pass the logged address to --url"
        raise ConfigError([f"{key}: {why}"])
    return f"http://{host_and_port('127.0.0.1' if host in EVERYWHERE else host, port)}"


def ask(url: str, path: str, expected: str) -> dict[str, Any]:
    """Return the JSON object at a path, which must have the list ``expected``. Raises ``NoAnswerError``.

    An answer with another status has ``error``, the autoscaler's message.
    """
    try:
        document = _fetched(url + path)
    except URLError as error:
        fault = f"the autoscaler does not answer: {error.reason}; --url takes the address that its log names"
        raise NoAnswerError(f"{url}: {fault}") from None
    except (HTTPException, OSError, ValueError) as error:
        raise NoAnswerError(f"{url}: not an answer of the autoscaler; check the port: {error}") from None
    if isinstance(document, dict) and isinstance(document.get(expected), list):
        return document
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        raise NoAnswerError(str(document["error"]))
    raise NoAnswerError(f"{url}: not an answer of the autoscaler; check the port: {str(document)[:80]}")


def complain(*lines: str) -> None:
    """Write error messages to stderr."""
    for line in lines:
        sys.stderr.write(f"slo-autoscaler: {line}\n")


def add_namespace(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the flag with the namespace of functions."""
    parser.add_argument("--namespace", "-n", help=f"namespace of the function [{default}]")


def add_source(parser: argparse.ArgumentParser, caller: Caller, default: str) -> Any:
    """Add the flags that select the autoscaler to query; return their group."""
    source = parser.add_mutually_exclusive_group()
    if caller.forwards:
        default = "through a forwarded port"
        source.add_argument(
            "--autoscaler", metavar="NAMESPACE", help="query the autoscaler in NAMESPACE [the only one]"
        )
    source.add_argument("--url", help=f"query the autoscaler at URL [{default}]")
    source.add_argument("--config", metavar="FILE", help="read the address from the configuration FILE")
    return source


def _fetched(url: str) -> object:
    """Return the JSON of an answer, whatever its status."""
    try:
        answer = urlopen(url, timeout=TIMEOUT)  # noqa: S310  (only http and https come here)
    except HTTPError as error:
        answer = error
    with answer:
        return json.load(answer)
