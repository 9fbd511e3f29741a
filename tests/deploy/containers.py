"""Images and containers by buildah and podman, on the host's network, as tests may have no other."""

import http.client
import json
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Without systemd, which podman asks to make cgroups otherwise, it makes them itself.
MANAGER = [] if Path("/run/systemd/system").is_dir() else ["--cgroup-manager=cgroupfs"]
# crun, which Debian's podman takes first, refuses cgroups of both versions side by side.
RUNTIME = "--runtime=runc"
ENGINE = ["podman", RUNTIME, *MANAGER]
# The engines' own limits are above what a machine that is a container itself may set.
LIMITS = [
    "--ulimit={}={}:{}".format(name, *resource.getrlimit(limit))
    for name, limit in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
]
BASE = "docker.io/library/python:{}-slim"
VERSIONS = ("3.12", "3.13", "3.11", "3.14")


def run(*command: str, timeout: float = 600, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(*ENGINE, *arguments, check=check)


def what_is_missing() -> str | None:
    """Why no image can be built here; None if one can."""
    for program in ("podman", "buildah", "runc"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None if base_version() else "no base image python:*-slim: tests/deploy/base-image.sh makes one"


def base_version() -> str | None:
    """The Python of the first base image that is there."""
    for version in VERSIONS:
        if podman("image", "exists", BASE.format(version), check=False).returncode == 0:
            return version
    return None


def build(
    context: Path,
    tag: str,
    wheels: Path | None,
    arguments: dict[str, str],
    *,
    secrets: dict[str, Path] | None = None,
    network: str = "host",
    epoch: int | None = None,
) -> str:
    """Build a Dockerfile as it stands; return what its steps said.

    pip's configuration is laid over so that it finds ``wheels``, unless that is None. ``epoch``
    (seconds) is the time of every file and of the image.
    """
    given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    given += [f"--secret=id={name},src={path}" for name, path in (secrets or {}).items()]
    if epoch is not None:
        given.append(f"--timestamp={epoch}")
    if wheels is not None:
        configuration = wheels.parent / "pip.conf"
        configuration.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        given += [f"--volume={wheels}:/wheels:ro", f"--volume={configuration}:/etc/pip.conf:ro"]
    command = [
        "buildah",
        "build",
        RUNTIME,
        f"--network={network}",
        "--pull=never",
        # Docker's has HEALTHCHECK, and notes the container that built it: no two are the same.
        "--format=docker" if epoch is None else "--format=oci",
        *LIMITS,
        *given,
        f"--tag={tag}",
        str(context),
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
    return done.stdout.partition(f"COMMIT {tag}")[0]


def inspect(image: str) -> dict[str, Any]:
    (found,) = json.loads(podman("image", "inspect", image).stdout)
    assert isinstance(found, dict)
    return found


@dataclass
class Container:
    """A container that runs in the background."""

    identity: str
    ports: dict[str, int] = field(default_factory=dict)

    def log(self) -> str:
        done = podman("logs", self.identity, check=False)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        (found,) = json.loads(podman("container", "inspect", self.identity).stdout)
        state: dict[str, Any] = found["State"]
        return state

    def call(self, method: str, path: str, body: bytes = b"", *, port: str) -> tuple[int, bytes]:
        """One request to a port of its own by name; waits for the listener."""
        deadline = time.monotonic() + 60
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=60)
            try:
                connection.request(method, path, body)
                response = connection.getresponse()
                return response.status, response.read()
            except ConnectionRefusedError:
                assert self.state()["Running"], self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.1)
            finally:
                connection.close()

    def wait_for(self, path: str, status: int = 200, *, port: str) -> None:
        deadline = time.monotonic() + 60
        while self.call("GET", path, port=port)[0] != status:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def terminate(self) -> int:
        """SIGTERM, as the kubelet sends it; the exit status."""
        podman("kill", "--signal=TERM", self.identity)
        return int(podman("wait", self.identity).stdout)


@contextmanager
def running(image: str, *options: str, arguments: tuple[str, ...] = (), **ports: int) -> Iterator[Container]:
    """A container with the root read-only, no capability and 256 MiB, as some user; gone afterwards."""
    command = ["run", "--detach", *CONFINED, *options, image, *arguments]
    container = Container(podman(*command).stdout.strip(), ports)
    try:
        yield container
    finally:
        podman("rm", "--force", "--volumes", "--time=0", container.identity)


CONFINED = (
    *LIMITS,
    "--network=host",
    "--pull=never",
    "--user=12345:12345",
    "--read-only",
    "--read-only-tmpfs=false",
    "--memory=256m",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
)
