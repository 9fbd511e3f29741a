"""Runs the platform until SIGINT or SIGTERM, which also end its start.

Owns the event loop, the signals and the addresses on stdout. Next step: ``platform``.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys

import uvloop

from tailbound_lab.local.platform import Platform, Settings, open_platform
from tailbound_lab.local.services import AUTOSCALER_CONFIG


def run(options: argparse.Namespace) -> None:
    """Run the platform that the flags of ``up`` describe; return after its stop. Raises ``PlatformError``."""
    uvloop.run(_until_signal(_settings(options)))


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
    names = [function.spec.full_name for function in platform.registry]
    rows = [
        *((name, f"{platform.gateway_url}/function/{name}") for name in names),
        ("gateway", platform.gateway_url),
        ("Prometheus", platform.prometheus_url or "off"),
        ("autoscaler", platform.autoscaler_url or "off"),
        ("status page", platform.page_url or "none"),
        ("logs", str(platform.log_dir)),
    ]
    width = max(len(name) for name, _ in rows)
    try:
        sys.stdout.write("".join(f"{name:{width}}  {text}\n" for name, text in rows))
        sys.stdout.write("Ctrl-C stops everything.\n")
        sys.stdout.flush()
    except OSError as error:
        # The reader may have gone (`| head`); the flush at exit would fail as well.
        logging.warning("stdout: the addresses cannot be written: %s", error.strerror)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
