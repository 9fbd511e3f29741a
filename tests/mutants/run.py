"""Tries each slip of ``slips.toml`` on a copy of the tree, and says which ones the fast tests do not see.

A slip is one change of the text of one file, as a hand would make it by mistake. It is caught if a test that
lies as its file lies, and starts no processes, fails with it and passes without it. Status 1: a slip lives
without a reason. ``make mutants``.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = {
    "batching-watchdog/batching_watchdog": "tests/watchdog",
    "autoscaler/slo_autoscaler": "tests/autoscaler",
}
"""Folders of code and the folders of their tests."""
PYTEST: Final = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not e2e", "--hypothesis-seed", "0")


@dataclass(frozen=True, slots=True)
class Slip:
    """A row of the table."""

    name: str
    file: str
    old: str
    """Occurs once in the file."""
    new: str
    breaks: str
    lives: str = ""
    """The reason for which no fast test sees it; empty: one must."""

    def applied(self, root: Path) -> str:
        """Return the text of its file with the slip. Raises ``ValueError`` unless ``old`` occurs once."""
        text = (root / self.file).read_text()
        if (times := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.file} has {self.old!r} {times} times, not once")
        return text.replace(self.old, self.new)

    def tests(self, root: Path) -> list[Path]:
        """Return the test files of the folder that mirrors that of its file; those named after it first."""
        code, tests = next(pair for pair in FOLDERS.items() if self.file.startswith(pair[0]))
        path = Path(self.file)
        folder = root / tests / path.parent.relative_to(code)
        while not any(folder.glob("test_*.py")):
            folder = folder.parent
        return sorted(folder.glob("test_*.py"), key=lambda test: path.stem not in test.stem)


def read_slips() -> list[Slip]:
    """Return the table."""
    return [Slip(**row) for row in tomllib.loads(Path(__file__).with_name("slips.toml").read_text())["slip"]]


def copy_tree(to: Path) -> Path:
    """Copy what git knows or would add to ``to``; return that."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    for path in (ROOT / name for name in names if name):
        if path.is_file():
            copied = to / path.relative_to(ROOT)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copied)
    return to


def run_tests(root: Path, tests: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run tests on the code of the copy ``root``, up to the first that fails."""
    code = os.pathsep.join(str(root / Path(folder).parent) for folder in FOLDERS)
    environ = {**os.environ, "PYTHONPATH": code, "TEST_PATIENCE": "30"}
    command = [sys.executable, *PYTEST, "-x", *map(str, tests)]  # a test that hangs has its own time limit
    return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)


def write(path: Path, text: str) -> None:
    """Write code. Python would know its bytecode by size and second, which a slip may leave as they were."""
    path.write_text(text)
    Path(cache_from_source(path)).unlink(missing_ok=True)


def try_slip(slip: Slip, copies: "SimpleQueue[Path]") -> str:
    """Return the test that catches ``slip``; empty if none does, or if that fails without the slip too."""
    root = copies.get()
    path = root / slip.file
    sound, slipped = path.read_text(), slip.applied(root)
    try:
        write(path, slipped)
        ran = run_tests(root, slip.tests(root))
        write(path, sound)
        if not ran.returncode:
            return ""
        failed = re.search(r"^(?:FAILED|ERROR) (\S+?\.py(?:::[^\[\s]+)?)", ran.stdout, re.MULTILINE)
        if failed is None or run_tests(root, failed.groups()).returncode:
            sys.stderr.write(f"{slip.name}: the tests fail without it too:\n{ran.stdout}{ran.stderr}\n")
            return ""
        return failed[1]
    finally:
        write(path, sound)
        copies.put(root)


def main() -> int:
    """Try the slips that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="slips to try; all by default")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="slips at a time")
    arguments = parser.parse_args()
    slips = [slip for slip in read_slips() if not arguments.names or slip.name in arguments.names]
    if unknown := set(arguments.names) - {slip.name for slip in slips}:
        parser.error(f"slips.toml has no {', '.join(sorted(unknown))}")
    for slip in slips:
        slip.applied(ROOT)
    copies = SimpleQueue[Path]()
    living, unexplained = 0, 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.processes) as pool:
        for number in range(arguments.processes):
            copies.put(copy_tree(Path(folder, str(number))))
        for slip, test in zip(slips, pool.map(partial(try_slip, copies=copies), slips), strict=True):
            living += not test
            unexplained += not (test or slip.lives)
            lives = f"LIVES: {slip.breaks}" + (f" ({slip.lives})" if slip.lives else "")
            sys.stdout.write(f"{slip.name}: {f'caught by {test}' if test else lives}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(slips)} slips, {living} live, {unexplained} of them without a reason\n")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
