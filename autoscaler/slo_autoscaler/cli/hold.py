"""``slo-autoscaler hold FUNCTION``: pause or cap the scaling of a function until a time, or end that.

Writes the annotation that the autoscaler reads, with the rights of the one who calls it: the autoscaler's own
need none. Exit statuses: 0 success; 1 the platform refused or did not answer; 2 the command line or the
configuration is invalid.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from slo_autoscaler.cli import SHELL, Caller, client
from slo_autoscaler.config import platform_section, read_config
from slo_autoscaler.errors import ConfigError, PlatformError
from slo_autoscaler.platforms import PlatformSettings, default_namespace, write_hold
from slo_autoscaler.settings.fields import parse_duration, parse_time, whole
from slo_autoscaler.settings.schedule import hold_of

T = TypeVar("T")

ON_KUBERNETES: Final = ("kubernetes", "knative")
"""Platforms that need no configuration: their objects are those of KUBECONFIG."""


def main(arguments: Sequence[str] | None = None, caller: Caller = SHELL) -> int:
    """Run the command; return its exit status."""
    line = parser(caller)
    flags = line.parse_args(arguments)
    now = datetime.now(UTC)
    if flags.until is not None and flags.until <= now:
        line.error(f"--until: {flags.until} must not be over")
    text = None if flags.release else _text(flags, now)
    name = client.qualified(flags.function, flags.namespace)
    try:
        hold = None if text is None else hold_of(text)
    except ValueError as error:
        line.error(str(error))
    try:
        platform = _platform(flags.config, flags.platform)
        if "." not in name:
            name = f"{name}.{default_namespace(platform)}"
        write_hold(platform, name, text)
    except ConfigError as error:
        client.complain(*error.lines)
        return 2
    except PlatformError as error:
        client.complain(str(error))
        return 1
    done = "released" if hold is None else f"holds {hold.text}"
    sys.stdout.write(f"{name}: {done}\n")
    return 0


def _text(flags: argparse.Namespace, now: datetime) -> str:
    """Return the annotation's text."""
    until = flags.until or now + timedelta(seconds=flags.for_)
    counts = {"replicas": flags.replicas, "max_replicas": flags.max_replicas}
    parts = {"until": until.isoformat(timespec="seconds"), **counts, "reason": flags.reason}
    return json.dumps({key: value for key, value in parts.items() if value})


def _platform(config: str | None, kind: str) -> PlatformSettings:
    if config is not None:
        return read_config(config).platform
    settings: PlatformSettings = platform_section(kind)()
    return settings


def _parsed(read: Callable[[object], T]) -> Callable[[str], T]:
    """Return ``read`` with its rule in argparse's words."""

    def parsed(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return parsed


def _positive(text: object) -> float:
    seconds = parse_duration(text)
    if not 0.0 < seconds < timedelta.max.total_seconds() / 2:
        raise ValueError("must be a duration above 0, such as 30m or 2h")
    return seconds


def _count(text: object) -> int:
    found = whole(text)
    if not found:
        raise ValueError("must be a whole number of at least 1")
    return found


def parser(caller: Caller) -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog=f"{caller.program} hold",
        description="Pauses the scaling of a function until a time. Needs the right to patch its Deployment,"
        " or on Knative its Service.",
    )
    parser.add_argument(
        "function", metavar="FUNCTION", help="pause this function: name.namespace, or only the name"
    )
    client.add_namespace(parser, "the cluster's present one")
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument(
        "--until",
        type=_parsed(parse_time),
        metavar="TIME",
        help="end the pause at TIME, such as 2026-12-01T09:00:00Z",
    )
    end.add_argument(
        "--for",
        dest="for_",
        type=_parsed(_positive),
        metavar="DURATION",
        help="end the pause after DURATION, such as 2h",
    )
    end.add_argument("--release", action="store_true", help="end the pause now")
    count = parser.add_mutually_exclusive_group()
    count.add_argument(
        "--replicas", type=_parsed(_count), metavar="N", help="keep N replicas [the present count]"
    )
    count.add_argument(
        "--max-replicas", type=_parsed(_count), metavar="N", help="go on scaling, with at most N replicas"
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="show TEXT with the decisions")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", help="take the platform from the configuration FILE")
    where.add_argument(
        "--platform",
        choices=ON_KUBERNETES,
        default=ON_KUBERNETES[0],
        help=f"use this platform, with the cluster of KUBECONFIG [{ON_KUBERNETES[0]}]",
    )
    return parser
