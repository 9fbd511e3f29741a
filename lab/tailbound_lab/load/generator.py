"""Compiles and runs the load generator openload.c.

Owns its command line, its input and its exit status. Next step: ``records`` parses its answer.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from tailbound_lab.load.records import BenchError, Lagged, Run, parse_run

COMPILERS: Final = ("cc", "gcc", "clang")
SOURCE = Path(__file__).with_name("openload.c")
LAGGED_STATUS = 3
CLIENT_TIMEOUT = 5.0
MARGIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Part:
    """Requests of one kind in a mix. Several parts with one name, such as bodies, are counted together."""

    body: bytes
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    """Besides Host and Content-Length."""
    weight: float = 1.0
    """The share of the mix is the weight over the sum of all weights."""
    name: str = ""
    slo: float | None = None
    """Seconds; None: the SLO of the run."""

    def message(self, port: int) -> bytes:
        """Return the request as it is sent."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address and requests of a run."""

    port: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Generator:
    """A compiled load generator."""

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

        The allowed lag is a tenth of the shortest SLO at the 99th percentile. Raises ``Lagged`` beyond it,
        and ``BenchError`` if the generator fails.
        """
        slos = [slo if part.slo is None else part.slo for part in endpoint.parts]
        words = (
            *(endpoint.port, rate, seconds),
            *(max(CLIENT_TIMEOUT, 2 * max(slos)), min(slos) / 10, stop_share, seed),
        )
        messages = [part.message(endpoint.port) for part in endpoint.parts]
        heads = [
            b"%r %r %d\n" % (part.weight, within, len(message))
            for part, within, message in zip(endpoint.parts, slos, messages, strict=True)
        ]
        try:
            done = subprocess.run(
                [str(self.program), *map(str, words)],
                input=b"".join(chain.from_iterable(zip(heads, messages, strict=True))),
                capture_output=True,
                check=False,
                timeout=seconds + CLIENT_TIMEOUT + MARGIN_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"the load generator did not end {MARGIN_SECONDS:g} s after its run") from None
        if done.returncode not in (0, LAGGED_STATUS):
            said = done.stderr.decode(errors="replace").strip()
            raise BenchError(f"the load generator ended with status {done.returncode}: {said}")
        run = parse_run(done.stdout.decode(), [part.name for part in endpoint.parts])
        if run.lagged:
            raise Lagged(
                f"at {rate:g}/s the generator's lag was {run.lag_ms['p99']:.1f} ms at the 99th percentile;"
                f" a tenth of the SLO, {min(slos) * 100:g} ms, is allowed",
                run,
            )
        return run


def build(folder: Path, compilers: Sequence[str] = COMPILERS) -> Generator:
    """Compile openload.c into ``folder``, unless the binary is newer.

    Raises ``BenchError`` without a compiler, or with the compiler's message if it fails.
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
