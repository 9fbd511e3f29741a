"""The command line: ``local-openfaas up`` runs the platform until SIGINT or SIGTERM.

Owns the flags, the event loop, the signals and the addresses on stdout. Next step: ``platform``.
"""

import argparse
import asyncio
import contextlib
import logging
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
        cpu_limits=options.cpu_limits,
        run_dir=options.run_dir,
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
    add = up.add_argument
    add("--stack", type=Path, metavar="FILE", help="deploy the functions of this stack.yml")
    image_help = "let deployments use image NAME: the handler in FOLDER (repeatable; --stack adds its own)"
    add("--image", type=_image, action="append", default=[], metavar="NAME=FOLDER", help=image_help)
    add("--port", type=int, default=8080, help="gateway port, 0 for any [%(default)s]")
    add("--prometheus-port", type=int, default=9090, help="Prometheus' port, 0 for any [%(default)s]")
    add("--no-prometheus", action="store_true", help="no Prometheus, and so no autoscaler")
    add("--no-autoscaler", action="store_true", help="do not start the autoscaler")
    config_help = "the autoscaler's configuration [lab/autoscaler.yaml]"
    add("--autoscaler-config", type=Path, metavar="FILE", help=config_help)
    limits_help = "give each replica the CPU limit of its function by cgroups, as root on Linux [none]"
    add("--cpu-limits", action="store_true", help=limits_help)
    run_help = "logs and Prometheus' data; kept [a temporary folder, removed at the end]"
    add("--run-dir", type=Path, metavar="DIR", help=run_help)
    hold_help = "time that a request waits for a first ready replica, also from zero [%(default)s]"
    add("--hold-timeout", type=float, default=30.0, metavar="SECONDS", help=hold_help)
    return parser


def _image(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=FOLDER")
    return name, Path(folder)


if __name__ == "__main__":
    sys.exit(main())
