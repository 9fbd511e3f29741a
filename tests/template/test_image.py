"""The image of a function, rehearsed: the context faas-cli makes, the Dockerfile's own steps, its CMD.

There is no container engine here: folders stand for the containers' roots (``dockerfile.Rehearsal``).
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from batching_watchdog.speedups import compiled
from tailbound_lab.local.ports import free_ports
from template.dockerfile import Rehearsal, StepFailed, exec_form, parse
from template.faas_cli import pull_template, send_to_builder, shrinkwrap

# The first test waits for packages to be fetched.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template/python3-inference"
# Any would do; this is what faas-netes takes with set_nonroot_user.
SOME_UID = 12000


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="image-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def image(folder: Path) -> Rehearsal:
    """All four stages, built for the simulated accelerator: no torch, so it takes seconds."""
    template = pull_template(TEMPLATE, folder / "template")
    context = shrinkwrap(template, ROOT / "functions/accelerator", folder / "context")
    sent = send_to_builder(context, folder / "sent")
    # A compiler is there or not, but none is installed on the machine that tests.
    arguments = {
        "SPEEDUPS": "false",
        "PIP_NO_CACHE_DIR": "0",
        "PIP_EXTRA_INDEX_URL": os.environ.get("PIP_EXTRA_INDEX_URL", ""),
    }
    rehearsal = Rehearsal(parse((context / "Dockerfile").read_text()), sent, folder / "roots", arguments)
    for stage in ("base", "build", "test", "ship"):
        rehearsal.build(stage)
    return rehearsal


def test_the_shipped_environment_has_the_watchdog_and_neither_pytest_nor_anything_of_ours(image):
    python = image.root("ship") / "opt/venv/bin/python"
    listed = subprocess.check_output([python, "-m", "pip", "list", "--format=json"], text=True)
    names = {package["name"].lower() for package in json.loads(listed)}
    assert {"batching-watchdog", "gunicorn", "uvloop", "httptools"} <= names
    assert not names & {"pytest", "torch", "hatchling", "slo-autoscaler", "local-openfaas"}


def test_the_compiled_part_is_there_if_there_was_a_compiler(image):
    python = image.root("ship") / "opt/venv/bin/python"
    script = "from batching_watchdog.speedups import compiled; print(compiled is not None)"
    assert subprocess.check_output([python, "-c", script], text=True).strip() == str(compiled is not None)


def test_the_function_folder_ships_without_what_the_tests_left_behind(image):
    shipped = {path.name for path in (image.root("ship") / "home/app/function").iterdir()}
    assert shipped == {"handler.py", "handler_test.py", "requirements.txt"}


def test_any_user_can_read_the_function_whose_folders_faas_cli_made_private(image):
    assert (image.context / "function").stat().st_mode & 0o777 == 0o700
    function = image.root("ship") / "home/app/function"
    for path in (function, *function.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_a_failing_test_stops_the_build_unless_tests_are_off_but_no_tests_do_not(image):
    again = Rehearsal(image.dockerfile, image.context, image.roots.with_name("again"), dict(image.arguments))
    again.environments = dict(image.environments)
    # What the test stage left has pytest already, which saves fetching it again.
    shutil.copytree(image.root("test"), again.root("build"), symlinks=True)
    tests = again.root("build") / "home/app/function/handler_test.py"
    tests.write_text("")
    assert "no tests ran" in again.build("test")
    shutil.rmtree(again.root("test"))
    tests.write_text("def test_it_works():\n    assert not 'today'\n")
    with pytest.raises(StepFailed, match="not 'today'"):
        again.build("test")
    shutil.rmtree(again.root("test"))
    again.arguments["TEST_ENABLED"] = "false"
    again.build("test")


def test_it_serves_is_healthy_and_drains_without_writing_into_its_root(image):
    before = contents(image.root("ship"))
    with running(image) as container:
        assert container.call("GET", "/_/health")[0] == 200
        container.wait_ready()
        assert container.healthy()
        if container.user is not None:
            assert container.users() == {SOME_UID}
        body = b"whose answer is it?"
        status, answer = container.call("POST", "/", body)
        assert (status, json.loads(answer)) == (200, {"checksum": zlib.crc32(body), "bytes": len(body)})
        status, metrics = container.call("GET", "/metrics", port=container.metrics_port)
        assert status == 200
        assert b'slo_requests_total{outcome="good"} 1.0' in metrics
        assert b"slo_latency_seconds 0.1" in metrics
        assert container.stop() == 0, container.log()
        assert not container.healthy()
    assert contents(image.root("ship")) == before


def test_handlers_import_the_modules_beside_them_by_name_and_through_function(image, folder):
    function = folder / "siblings"
    function.mkdir(mode=0o755)
    (function / "helper.py").write_text("GREETING = 'hello'\n")
    (function / "other.py").write_text("NAME = 'you'\n")
    (function / "handler.py").write_text(
        "import helper\n"
        "from function import other\n"
        "def handle(event, context):\n"
        "    return f'{helper.GREETING} {other.NAME} at {event.path}'\n"
    )
    with running(image, function_path=str(function)) as container:
        container.wait_ready()
        assert container.call("GET", "/here") == (200, b"hello you at /here")


def test_the_starter_works_behind_the_shipped_watchdog(image):
    """Its torch is this environment's: installing one would take longer than all other tests together."""
    import torch  # noqa: PLC0415 - takes seconds, and only this test needs it

    starter = TEMPLATE / "function"
    packages = Path(torch.__file__).parents[1]
    with running(
        image, function_path=str(starter), PYTHONPATH=str(packages), as_other_user=False
    ) as container:
        container.wait_ready()
        status, answer = container.call("POST", "/", b'{"x": [0.1, 0.2, 0.3, 0.4]}')
        assert (status, json.loads(answer).keys()) == (200, {"y"})
        status, answer = container.call("POST", "/", b"nonsense")
        assert status == 400
        assert "error" in json.loads(answer)


def contents(root: Path) -> dict[str, float]:
    """Every file of the image with its time of change, the environment behind the link included."""
    found = {}
    for top in (root, (root / "opt/venv").resolve()):
        for path in top.rglob("*"):
            found[str(path)] = path.lstat().st_mtime
    return found


class Container:
    """A process that runs the image's CMD as a container would: its ENV, its WORKDIR, an empty /tmp."""

    def __init__(self, image: Rehearsal, environment: Mapping[str, str], user: int | None) -> None:
        self.image = image
        self.user = user
        self.tmp = Path(tempfile.mkdtemp(prefix="tmp-"))
        self.tmp.chmod(0o1777)
        self.port, self.metrics_port = free_port(), free_port()
        settings = image.environment("ship")
        workdir = settings.pop("PWD")
        settings |= {
            "HOME": str(self.tmp),
            "TMPDIR": str(self.tmp),
            "port": str(self.port),
            "metrics_port": str(self.metrics_port),
            "slo_latency": "100ms",
            "workers": "1",
            "worker_threads": "1",
            "healthcheck_interval": "0s",
        }
        (command,) = (exec_form(text) for text in image.dockerfile.stages["ship"].texts("CMD"))
        executable = shutil.which(command[0], path=settings["PATH"])
        assert executable is not None
        self.out = (self.tmp / "log").open("w")
        self.process = subprocess.Popen(
            [executable, *command[1:]],
            cwd=workdir,
            env=settings | environment,
            stdout=self.out,
            stderr=subprocess.STDOUT,
            **({} if user is None else {"user": user, "group": user, "extra_groups": []}),
        )

    def log(self) -> str:
        return (self.tmp / "log").read_text()

    def call(self, method: str, path: str, body: bytes = b"", port: int | None = None) -> tuple[int, bytes]:
        """One request; waits for the listener."""
        deadline = time.monotonic() + 20
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=20)
            try:
                connection.request(method, path, body)
                response = connection.getresponse()
                return response.status, response.read()
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)
            finally:
                connection.close()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 30
        while self.call("GET", "/_/ready")[0] != 200:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def processes(self) -> list[Path]:
        """The /proc folders of the watchdog, gunicorn and the workers: they have our TMPDIR."""
        marker = f"TMPDIR={self.tmp}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if marker in (process / "environ").read_bytes().split(b"\0"):
                    found.append(process)
        return found

    def users(self) -> set[int]:
        """The users that they run as."""
        return {process.stat().st_uid for process in self.processes()}

    def healthy(self) -> bool:
        """What the image's HEALTHCHECK says."""
        (check,) = self.image.dockerfile.stages["ship"].texts("HEALTHCHECK")
        script = check.partition("CMD ")[2].replace("/tmp", str(self.tmp))
        return subprocess.run(["sh", "-c", script], check=False).returncode == 0

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
        self.out.close()
        shutil.rmtree(self.tmp)


@contextlib.contextmanager
def running(image: Rehearsal, *, as_other_user: bool = True, **environment: str) -> Iterator[Container]:
    """The image's process, as an unknown user where this one may become another; gone afterwards."""
    container = Container(image, environment, other_user(image) if as_other_user else None)
    try:
        yield container
    finally:
        container.clean_up()


def other_user(image: Rehearsal) -> int | None:
    """``SOME_UID`` if processes can be run as it: we are root, and this Python is not in a private folder."""
    if os.geteuid() != 0:
        return None
    python = (image.root("ship") / "opt/venv/bin/python").resolve()
    if any(not folder.stat().st_mode & 0o001 for folder in (Path(sys.base_prefix), *python.parents)):
        return None
    return SOME_UID


def free_port() -> int:
    return free_ports(1)[0]
