"""Changes the pure rooms one place at a time, and says which changes their fast tests do not see.

A mutant is one changed place of one file: a comparison, a condition, a constant, an operator, ``min`` or
``max``, a statement or a return that is gone. It lives if all tests of its room pass. Some mutants change
nothing that a caller can see; a reader judges the others. Status 1: tests fail without a mutant.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = {
    "batching-watchdog/batching_watchdog/engine": "tests/watchdog/engine",
    "autoscaler/slo_autoscaler/law": "tests/autoscaler/law",
}
"""Folders of code and the folders of their tests."""
PYTEST: Final = ("-m", "pytest", "-qx", "-p", "no:cacheprovider", "-m", "not e2e", "--hypothesis-seed", "0")
TEST_SECONDS: Final = 100
ROOM_SECONDS: Final = 900
"""A mutant that keeps one test, or all of them, longer than this is caught: most such never end."""

COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
EXTREMES: Final = {"min": "max", "max": "min"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed place."""

    file: str
    line: int
    old: str
    new: str
    text: str
    """The whole file with it."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.old} -> {self.new}"


def mutants(file: str, text: str) -> Iterator[Mutant]:
    """Yield each mutant of a file's ``text``, from top to bottom."""
    source = text.encode()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, condition in nodes(ast.parse(text)):
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or 0
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[end_line - 1] + end_column
        for changed in changes(node, condition=condition):
            new = ast.unparse(changed)
            placed = f"({new})" if isinstance(changed, ast.expr) else new
            whole = (source[:begin] + placed.encode() + source[end:]).decode()
            yield Mutant(file, node.lineno, ast.unparse(node), new, whole)


def nodes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, bool]]:
    """Yield the nodes that run, without annotations and texts, and whether each is its parent's condition."""
    for name, value in ast.iter_fields(tree):
        if name in {"annotation", "returns", "decorator_list"}:
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.JoinedStr) or not isinstance(node, ast.AST):
                continue
            if isinstance(node, ast.expr | ast.stmt):
                yield node, name == "test"
            yield from nodes(node)


def changes(node: ast.expr | ast.stmt, *, condition: bool) -> Iterator[ast.expr | ast.stmt]:
    """Yield what may stand in the place of ``node``."""
    if condition and not isinstance(node, ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), node)
    match node:
        case ast.Compare(left, ops, comparators):
            for index, kind in enumerate(map(type, ops)):
                yield ast.Compare(left, [*ops[:index], COMPARISONS[kind](), *ops[index + 1 :]], comparators)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.Call(ast.Name(name), arguments, keywords) if name in EXTREMES:
            yield ast.Call(ast.Name(EXTREMES[name]), arguments, keywords)
        case ast.Constant(int() | float() as value) if not isinstance(value, bool):
            yield ast.Constant(value + 1)
        case ast.Return(value) if value is not None and not is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value) if not isinstance(value, ast.Constant):
            yield ast.Pass()
        case ast.AugAssign() | ast.Assign([ast.Attribute() | ast.Subscript()]) | ast.Raise():
            yield ast.Pass()


def is_none(node: ast.expr) -> bool:
    """Whether a node is the constant ``None``."""
    return isinstance(node, ast.Constant) and node.value is None


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


def pass_tests(root: Path, file: str) -> bool:
    """Whether the tests of the file's room pass in the copy ``root``, those named after the file first."""
    folder = root / next(tests for code, tests in ROOMS.items() if file.startswith(code))
    tests = sorted(folder.rglob("test_*.py"), key=lambda test: Path(file).stem not in test.stem)
    code = os.pathsep.join(str(root / Path(room).parent.parent) for room in ROOMS)
    environ = {**os.environ, "PYTHONPATH": code, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *PYTEST, "--timeout", str(TEST_SECONDS), *map(str, tests)]
    quiet = subprocess.DEVNULL
    try:
        ran = subprocess.run(
            command, cwd=root, env=environ, stdout=quiet, stderr=quiet, check=False, timeout=ROOM_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return ran.returncode == 0


def lives(mutant: Mutant, copies: "SimpleQueue[Path]") -> bool:
    """Whether all tests pass with ``mutant``, tried in one of the ``copies``."""
    root = copies.get()
    path = root / mutant.file
    sound = path.read_text()
    try:
        path.write_text(mutant.text)
        return pass_tests(root, mutant.file)
    finally:
        path.write_text(sound)
        copies.put(root)


def main(words: Sequence[str] | None = None) -> int:
    """Try the mutants that the command line asks for, and write those that live."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", nargs="+", default=[], help="ends of paths, such as law/zero.py [all]")
    parser.add_argument("--sample", type=int, default=100, help="mutants to try, drawn by chance [100]")
    parser.add_argument("--seed", type=int, default=0, help="of the sample [0]")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    arguments = parser.parse_args(words)
    files = [str(path.relative_to(ROOT)) for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    files = [file for file in files if not arguments.files or file.endswith(tuple(arguments.files))]
    if not files:
        parser.error(f"--files {' '.join(arguments.files)}: no file of {' or '.join(ROOMS)} ends so")
    chosen = [mutant for file in files for mutant in mutants(file, (ROOT / file).read_text())]
    chosen = random.Random(arguments.seed).sample(chosen, min(arguments.sample, len(chosen)))
    copies = SimpleQueue[Path]()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.processes) as pool:
        for number in range(arguments.processes):
            copies.put(first := copy_tree(Path(folder, str(number))))
        for room in ROOMS:
            if any(file.startswith(room) for file in files) and not pass_tests(first, room):
                sys.stderr.write(f"{ROOMS[room]}: tests fail without a mutant\n")
                return 1
        living = 0
        for mutant, alive in zip(chosen, pool.map(partial(lives, copies=copies), chosen), strict=True):
            if alive:
                living += 1
                sys.stdout.write(f"{mutant}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{len(chosen)} mutants, {living} live\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
