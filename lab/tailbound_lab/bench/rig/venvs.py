"""Creates a virtual environment for each peer, under build/bench/venvs.

A peer comes from PyPI by its name. The workloads' packages, such as torch, are not installed again: a .pth
file adds the bench's own packages after the peer's. Raises ``NotAvailable`` with pip's last output.
"""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tailbound_lab.bench.rig.record import say
from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.load.records import NotAvailable

VENVS = ROOT / "build" / "bench" / "venvs"
INSTALL_SECONDS = 900


def python_of(requirements: tuple[str, ...], folder: Path = VENVS) -> Path:
    """Return the interpreter of a peer's environment, which is created on first use.

    Raises ``NotAvailable`` if this fails; a partial environment is removed.
    """
    environment = folder / requirements[-1]
    python = environment / "bin" / "python"
    done = environment / ".installed"
    wanted = "\n".join(requirements)
    if done.exists() and done.read_text() == wanted and python.exists():
        return python
    say(f"installing {' '.join(requirements)}")
    shutil.rmtree(environment, ignore_errors=True)
    try:
        venv.create(environment, with_pip=False, symlinks=True)
        packages = next(environment.glob("lib/python*/site-packages"))
        (packages / "tailbound_bench.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", *requirements]
        finished = subprocess.run(
            install, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        shutil.rmtree(environment, ignore_errors=True)
        raise NotAvailable(f"its environment {environment} cannot be made: {error}") from None
    if finished.returncode:
        shutil.rmtree(environment, ignore_errors=True)
        words = (finished.stderr.strip() or finished.stdout.strip()).splitlines()
        reason = next(
            (line for line in reversed(words) if "error" in line.lower()), words[-1] if words else ""
        )
        raise NotAvailable(f"pip install {' '.join(requirements)} failed: {reason}")
    done.write_text(wanted)
    return python
