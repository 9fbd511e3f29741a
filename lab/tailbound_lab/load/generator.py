"""Compiles and runs the load generator openload.c.

Owns its command line and its exit status. Next step: ``records`` reads its answer.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tailbound_lab.load.records import BenchError, Lagged, Run, parse_run

COMPILERS: Final = ("cc", "gcc", "clang")
SOURCE = Path(__file__).with_name("openload.c")
LAGGED_STATUS = 3
CLIENT_TIMEOUT = 5.0
MARGIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go and the file that holds their body."""

    port: int
    path: str
    content_type: str
    body: Path


@dataclass(frozen=True, slots=True)
class Generator:
    """A load generator that is ready to run."""

    program: Path

    def run(
        self,
        endpoint: Endpoint,
        *,
        rate: float,
        seconds: float,
        slo: float,
        seed: int = 1,
        stop_share: float = 1.0,
    ) -> Run:
        """Offer ``rate`` for ``seconds``; a run with more misses than ``stop_share`` of all is cut short.

        The lag that is allowed is a tenth of the SLO at the 99th percentile. Raises ``Lagged`` beyond it, and
        ``BenchError`` if the generator fails.
        """
        words = (
            *(endpoint.path, endpoint.content_type, endpoint.body, endpoint.port),
            *(rate, seconds, slo, max(CLIENT_TIMEOUT, 2 * slo), slo / 10, stop_share, seed),
        )
        try:
            done = subprocess.run(
                [str(self.program), *map(str, words)],
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds + CLIENT_TIMEOUT + MARGIN_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"the load generator did not end {MARGIN_SECONDS:g} s after its run") from None
        if done.returncode not in (0, LAGGED_STATUS):
            raise BenchError(f"the load generator ended with status {done.returncode}: {done.stderr.strip()}")
        run = parse_run(done.stdout)
        if run.lagged:
            raise Lagged(
                f"at {rate:g}/s the generator's lag was {run.lag_ms['p99']:.1f} ms at the 99th percentile;"
                f" a tenth of the SLO, {slo * 100:g} ms, is allowed",
                run,
            )
        return run


def build(folder: Path, compilers: Sequence[str] = COMPILERS) -> Generator:
    """Compile openload.c into ``folder``, unless what is there is newer.

    Raises ``BenchError`` without a compiler, and with the compiler's own words if it fails.
    """
    compiler = next((path for name in compilers if (path := shutil.which(name))), None)
    if compiler is None:
        raise BenchError(f"the load generator is C: install a compiler ({', '.join(compilers)} on PATH)")
    binary = folder / "openload"
    if not binary.exists() or binary.stat().st_mtime < SOURCE.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"openload.{os.getpid()}"
        command = [compiler, "-O2", "-std=c11", "-o", str(fresh), str(SOURCE), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{compiler} cannot compile {SOURCE}:\n{done.stderr.strip()}")
        fresh.replace(binary)
    return Generator(binary)
