"""The record of a run: one JSON file for each question, of which every table and picture is made.

``build/bench/QUESTION.json`` is always written, and again after each part of a long run. With ``--publish``
the complete record is written to ``docs/benchmarks`` too; ``make reference`` then makes the page.
"""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.load.machine import describe
from tailbound_lab.load.records import BenchError

OUTPUT: Final = ROOT / "build" / "bench"
PUBLISHED: Final = ROOT / "docs" / "benchmarks"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """What one run measured, and where it comes from."""

    question: str
    commit: str
    """Short hash; ``-dirty`` follows if files outside of docs/ differ from it."""
    date: str
    machine: str
    command: str
    rows: list[Row]

    @property
    def origin(self) -> str:
        """Return one sentence for the page: command, commit, date, machine."""
        return f"`{self.command}`: commit {self.commit}, {self.date}, {self.machine}."


@dataclass(frozen=True, slots=True)
class Run:
    """A run of one question that began now."""

    record: Record
    folder: Path
    """Where the record and what the run builds lie."""

    def keep(self, rows: Iterable[Row]) -> Record:
        """Write the rows measured so far, and return them as a record."""
        record = Record(**(asdict(self.record) | {"rows": list(rows)}))
        write(record, self.folder)
        return record


def begin(question: str, words: Sequence[str], folder: Path) -> Run:
    """Return a run of ``bench WORDS`` with this machine, commit and date, and no rows yet.

    A path is of this machine alone; the record has ``DIR`` for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    command = shlex.join(("bench", *("DIR" if "/" in word else word for word in words)))
    return Run(Record(question, commit(), date, describe(), command, []), folder)


def commit() -> str:
    """Return the short hash of the checked-out commit; "unknown" outside of a Git repository."""
    head = _git("rev-parse", "--short=10", "HEAD")
    if head.returncode:
        return "unknown"
    # A published record is no other version of what is measured.
    changed = _git("diff", "--quiet", "HEAD", "--", ".", ":!docs").returncode
    return head.stdout.strip() + "-dirty" * bool(changed)


def _git(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(("git", *words), cwd=ROOT, capture_output=True, text=True, check=False)


def write(record: Record, folder: Path) -> None:
    """Write a record as ``QUESTION.json``, with a line for each row."""
    folder.mkdir(parents=True, exist_ok=True)
    members = {key: json.dumps(value, allow_nan=False) for key, value in asdict(record).items()}
    if record.rows:
        members["rows"] = "[\n{}\n]".format(
            ",\n".join(json.dumps(row, allow_nan=False) for row in record.rows)
        )
    text = ",\n".join(f'"{key}": {value}' for key, value in members.items())
    (folder / f"{record.question}.json").write_text(f"{{\n{text}\n}}\n")


def read(file: Path) -> Record:
    """Return the record of a file. Raises ``BenchError`` if it holds none."""
    try:
        return Record(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise BenchError(f"{file}: must be the record of a run: {error}") from None


def say(text: str) -> None:
    """Print the progress to stderr."""
    sys.stderr.write(f"bench: {text}\n")


def listed(rows: Iterable[Row], columns: Mapping[str, str]) -> str:
    """Return a line of a table for each row; ``columns`` has the format of the row's values by heading."""
    return markdown(tuple(columns), ([form.format(**row) for form in columns.values()] for row in rows))


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
