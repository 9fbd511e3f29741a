"""Virtual environments for the peers, one for each, under build/bench/venvs.

A peer comes from PyPI by its name. Torch and what else the workloads need are not installed again: a .pth
file puts the bench's own packages behind the peer's. Raises ``NotAvailable`` with pip's last words.
"""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tailbound_lab.load.records import NotAvailable

INSTALL_SECONDS = 900


def python_of(folder: Path, name: str, requirements: tuple[str, ...]) -> Path:
    """The interpreter of a peer's environment, made on first use.

    Raises ``NotAvailable`` if it cannot be made; a half-made one is removed.
    """
    environment = folder / name
    python = environment / "bin" / "python"
    done = environment / ".installed"
    wanted = "\n".join(requirements)
    if done.exists() and done.read_text() == wanted and python.exists():
        return python
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


def version_of(python: Path, package: str) -> str:
    """The version of an installed package; "unknown" if it cannot be told."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
