"""Compiles and runs the load generator openload.c.

Owns its input, its output's layout and its exit status. Next step: ``records`` says what a run means.
"""

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tailbound_lab.load.arrivals import Profile
from tailbound_lab.load.records import BenchError, Load, Run, evaluate

COMPILERS: Final = ("cc", "gcc", "clang")
SOURCE: Final = Path(__file__).with_name("openload.c")
BUILD: Final = Path(__file__).resolve().parents[3] / "build" / "load"
STOPPED_STATUS: Final = 3
CLIENT_TIMEOUT: Final = 5.0
"""Least seconds after which a request of :meth:`Generator.run` without an answer times out."""
MARGIN_SECONDS: Final = 60.0


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

    def message(self, port: int, host: str = "127.0.0.1") -> bytes:
        """Return the request as it is sent."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {host}:{port}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address and requests of a stream."""

    port: int
    parts: tuple[Part, ...]
    host: str = "127.0.0.1"


def endpoint(
    url: str, bodies: Sequence[bytes] = (b"",), headers: tuple[tuple[str, str], ...] = ()
) -> Endpoint:
    """Return the endpoint of a URL; each request draws one of the bodies. Raises ValueError for a bad URL."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"url {url!r}: expected http://HOST[:PORT]/PATH")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Endpoint(parts.port or 80, tuple(Part(body, path, headers) for body in bodies), parts.hostname)


@dataclass(frozen=True, slots=True)
class Stream:
    """The traffic to one endpoint: two streams with the same profile and seed have the same arrivals."""

    endpoint: Endpoint
    profile: Profile
    seed: int = 0
    slo: float = 1.0
    """Seconds, for parts without one of their own: by it a run is cut short."""

    @property
    def slos(self) -> list[float]:
        """The SLO of each part, in seconds."""
        return [self.slo if part.slo is None else part.slo for part in self.endpoint.parts]

    def lines(self) -> bytes:
        """Return the stream as the generator's input. Raises ``OSError`` if the host has no address."""
        host, port, parts = self.endpoint.host, self.endpoint.port, self.endpoint.parts
        try:
            address = socket.gethostbyname(host)
        except OSError as error:
            raise OSError(f"{host}: has no IPv4 address: {error.strerror}") from None
        head = f"{address} {port} {self.seed} {len(self.profile.points)} {len(parts)}\n"
        points = "".join(f"{seconds!r} {rate!r}\n" for seconds, rate in self.profile.points)
        messages = [part.message(port, host) for part in parts]
        return (head + points).encode() + b"".join(
            b"%r %r %d\n%b" % (part.weight, slo, len(message), message)
            for part, slo, message in zip(parts, self.slos, messages, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Generator:
    """A compiled load generator."""

    program: Path

    def command(self, timeout: float, stop_share: float = 1.0) -> tuple[str, ...]:
        """Return the command that reads streams from standard input; ``timeout`` is in seconds."""
        return (str(self.program), repr(timeout), repr(stop_share))

    def run(self, endpoint: Endpoint, load: Load) -> Run:
        """Offer a load.

        Raises ``Lagged`` if the generator took over a tenth of the shortest SLO, ``BenchError`` if it failed.
        """
        profile = Profile(((0.0, load.rate), (load.seconds, load.rate)))
        stream = Stream(endpoint, profile, load.seed, load.slo)
        limit = max(CLIENT_TIMEOUT, 2 * max(stream.slos))
        # Into a file: a pipe whose reader is late would stop the generator.
        with tempfile.TemporaryFile() as output:
            try:
                done = subprocess.run(
                    self.command(limit, load.stop_share),
                    input=stream.lines(),
                    stdout=output,
                    stderr=subprocess.PIPE,
                    check=False,
                    timeout=load.seconds + limit + MARGIN_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise BenchError(
                    f"the load generator did not end {MARGIN_SECONDS:g} s after its run"
                ) from None
            output.seek(0)
            records = output.read()
        if done.returncode not in (0, STOPPED_STATUS):
            said = done.stderr.decode(errors="replace").strip()
            raise BenchError(f"the load generator ended with status {done.returncode}: {said}")
        parts = [(part.name, within) for part, within in zip(endpoint.parts, stream.slos, strict=True)]
        run = evaluate(records, load, parts, stopped_early=done.returncode == STOPPED_STATUS)
        return run.in_time(min(stream.slos))


def build(folder: Path = BUILD, compilers: Sequence[str] = COMPILERS) -> Generator:
    """Compile openload.c into ``folder``, unless that has been done for the present source.

    Raises ``BenchError`` without a compiler, or with the compiler's message if it fails.
    """
    binary = folder / f"openload-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not binary.exists():
        compiler = next((path for name in compilers if (path := shutil.which(name))), None)
        if compiler is None:
            raise BenchError(
                f"the load generator is C and needs a compiler ({', '.join(compilers)} on PATH): "
                "install one, on Debian with apt-get install gcc libc6-dev"
            )
        folder.mkdir(parents=True, exist_ok=True)
        # A compiler that is interrupted leaves its temporary files, and its parts may still write some.
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as temporary:
            fresh = Path(temporary) / "openload"
            command = [compiler, "-O2", "-std=c11", "-o", str(fresh), str(SOURCE), "-lm"]
            environment = os.environ | {"TMPDIR": temporary}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                raise BenchError(f"{compiler} cannot compile {SOURCE}:\n{done.stderr.strip()}")
            fresh.replace(binary)
    return Generator(binary)
