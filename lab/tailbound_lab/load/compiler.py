"""The C compiler of this machine: the bench's C programs are built where they run."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tailbound_lab.load.errors import BenchError

COMPILERS: Final = ("cc", "gcc", "clang")


def find(names: Sequence[str] = COMPILERS) -> str | None:
    """The first of these that is on PATH."""
    return next((path for name in names if (path := shutil.which(name))), None)


def build(compiler: str, source: Path, binary: Path) -> None:
    """Compile one file into a program. Raises ``BenchError`` with the compiler's own words if it fails."""
    done = subprocess.run(
        [compiler, "-O2", "-std=c11", "-o", str(binary), str(source), "-lm"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{compiler} cannot compile {source}:\n{done.stderr.strip()}")
