"""The command line: ``local-openfaas up`` runs the platform until SIGINT or SIGTERM.

Owns the flags, the event loop, the signals and the addresses on stdout. Next step: ``platform``.
"""

import argparse
import asyncio
import contextlib
import logging
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from tailbound_lab import __version__
from tailbound_lab.local.errors import PlatformError
from tailbound_lab.local.platform import Platform, Settings, open_platform
from tailbound_lab.local.services import AUTOSCALER_CONFIG


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 after a clean stop, 1 if the platform cannot start, 2 for a wrong argument."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        uvloop.run(_until_signal(_settings(options)))
    except PlatformError as error:
        sys.stderr.write(f"local-openfaas: {error}\n")
        return 1
    return 0


async def _until_signal(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    serving, stopped = asyncio.create_task(_serve(settings)), asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        sys.stderr.write("stopping\n")
        serving.cancel()
    stopped.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _serve(settings: Settings) -> None:
    async with open_platform(settings) as platform:
        _introduce(platform)
        await asyncio.Event().wait()


def _introduce(platform: Platform) -> None:
    rows = [
        *(
            (function.spec.full_name, f"{platform.gateway_url}/function/{function.spec.full_name}")
            for function in platform.registry
        ),
        ("gateway", platform.gateway_url),
        ("Prometheus", platform.prometheus_url or "off"),
        ("autoscaler", platform.autoscaler_url or "off"),
        ("status page", platform.page_url or "none"),
        ("logs", str(platform.log_dir)),
    ]
    width = max(len(name) for name, _ in rows)
    sys.stdout.write("".join(f"{name:{width}}  {text}\n" for name, text in rows))
    sys.stdout.write("Ctrl-C stops everything.\n")
    sys.stdout.flush()


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        stack=options.stack,
        images=dict(options.image),
        port=options.port,
        with_prometheus=not options.no_prometheus,
        prometheus_port=options.prometheus_port,
        with_autoscaler=not (options.no_autoscaler or options.no_prometheus),
        autoscaler_config=options.autoscaler_config or AUTOSCALER_CONFIG,
        run_dir=options.run_dir,
        basic_auth_dir=options.basic_auth_dir,
        hold_timeout=options.hold_timeout,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="local-openfaas",
        description="An OpenFaaS provider and gateway that runs replicas as processes on this machine. "
        "For development, the demo and tests: nothing is isolated.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start the platform and stay; Ctrl-C stops everything")
    up.add_argument("--stack", type=Path, metavar="FILE", help="deploy the functions of this stack.yml")
    up.add_argument(
        "--image",
        type=_image,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="let deployments use image NAME: the handler in FOLDER (repeatable; --stack adds its own)",
    )
    up.add_argument("--port", type=_port, default=8080, help="gateway port, 0 for any [%(default)s]")
    up.add_argument(
        "--prometheus-port", type=_port, default=9090, help="Prometheus' port, 0 for any [%(default)s]"
    )
    up.add_argument("--no-prometheus", action="store_true", help="no Prometheus, and so no autoscaler")
    up.add_argument("--no-autoscaler", action="store_true", help="do not start the autoscaler")
    up.add_argument(
        "--autoscaler-config",
        type=Path,
        metavar="FILE",
        help="the autoscaler's configuration [lab/autoscaler.yaml]",
    )
    up.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="logs, secrets and Prometheus' data; kept [a temporary folder, removed at the end]",
    )
    up.add_argument(
        "--basic-auth-dir",
        type=Path,
        metavar="DIR",
        help="protect /system with the basic-auth-user and basic-auth-password files in DIR [off]",
    )
    up.add_argument(
        "--hold-timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="time that a request waits for a first ready replica, also from zero [%(default)s]",
    )
    return parser


def _image(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=FOLDER")
    return name, Path(folder)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} must be a port number, 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be seconds, at least 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
