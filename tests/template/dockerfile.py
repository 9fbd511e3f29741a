"""Reads the template's Dockerfile, and rehearses it: runs its own steps in a folder instead of in containers.

No container engine is needed, so the tests run anywhere. Left out are the RUN steps of the first stage
(Debian packages, a user, the standard library's bytecode), which would change the machine of the tests.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Step:
    instruction: str
    text: str


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    steps: tuple[Step, ...]

    def texts(self, instruction: str) -> list[str]:
        return [step.text for step in self.steps if step.instruction == instruction]


@dataclass(frozen=True)
class Dockerfile:
    arguments: Mapping[str, str]
    """ARGs before the first FROM."""
    stages: Mapping[str, Stage]


def parse(text: str) -> Dockerfile:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    logical = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    steps = [Step(*re.split(r"\s+", line, maxsplit=1)) for line in logical]
    starts = [index for index, step in enumerate(steps) if step.instruction == "FROM"]
    stages = {}
    for start, end in zip(starts, [*starts[1:], len(steps)], strict=True):
        base, _, name = re.split(r"\s+", steps[start].text)
        stages[name] = Stage(name, base, tuple(steps[start + 1 : end]))
    before = [assignment(step.text) for step in steps[: starts[0]]]
    return Dockerfile(dict(before), stages)


def assignment(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, "".join(shlex.split(value))


class StepFailed(Exception):
    """A RUN step that would have stopped the build."""


@dataclass
class Rehearsal:
    """Builds stages of a Dockerfile, each in a folder that stands for its container's root."""

    dockerfile: Dockerfile
    context: Path
    roots: Path
    arguments: dict[str, str] = field(default_factory=dict)
    """What ``docker build`` would get as --build-arg."""
    environments: dict[str, dict[str, str]] = field(default_factory=dict)

    def root(self, stage: str) -> Path:
        return self.roots / stage

    def build(self, name: str) -> str:
        """Build one stage, whose base must be built; what its RUN steps printed. Raises ``StepFailed``."""
        stage = self.dockerfile.stages[name]
        root = self.root(name)
        inner = stage.base in self.dockerfile.stages
        if inner:
            shutil.copytree(self.root(stage.base), root, symlinks=True)
        else:
            root.mkdir(parents=True)
        environment = dict(self.environments[stage.base]) if inner else {}
        arguments: dict[str, str] = {}
        workdir = environment.get("PWD", "/")
        printed = []
        for step in stage.steps:
            if step.instruction == "ARG":
                key, default = assignment(step.text)
                arguments[key] = self.arguments.get(key, default)
            elif step.instruction == "ENV":
                environment |= dict(assignment(part) for part in shlex.split(step.text))
            elif step.instruction == "WORKDIR":
                workdir = environment["PWD"] = step.text
                (root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif step.instruction == "COPY":
                self._copy(step.text, root, workdir)
            elif step.instruction == "RUN" and inner:
                printed.append(self._run(step.text, root, workdir, arguments | environment))
        self.environments[name] = environment
        return "".join(printed)

    def environment(self, stage: str) -> dict[str, str]:
        """The stage's ENV, for a process that runs in its folder."""
        return {
            key: self._localize(value, self.root(stage)) for key, value in self.environments[stage].items()
        }

    def _copy(self, text: str, root: Path, workdir: str) -> None:
        *flags, source, target = text.split()
        origin = self.context
        for flag in flags:
            origin = self.root(flag.removeprefix("--from="))
        destination = root / workdir.lstrip("/") / target if not target.startswith("/") else root / target[1:]
        destination.parent.mkdir(parents=True, exist_ok=True)
        path = origin / source.lstrip("/")
        if (path / "pyvenv.cfg").exists():
            destination.symlink_to(path)  # the paths in its scripts are those of the place where it was made
        elif path.is_dir():
            shutil.copytree(path, destination, dirs_exist_ok=True)
        else:
            shutil.copy(path, destination)

    def _run(self, text: str, root: Path, workdir: str, environment: Mapping[str, str]) -> str:
        result = subprocess.run(
            ["sh", "-c", self._localize(text, root)],
            cwd=root / workdir.lstrip("/"),
            env=host_environment()
            | {key: self._localize(value, root) for key, value in environment.items() if key != "PWD"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if result.returncode:
            raise StepFailed(f"RUN {text}\n{result.stdout}")
        return result.stdout

    def _localize(self, text: str, root: Path) -> str:
        """``text`` with the image's folders in ``root``; a ${PATH} in it becomes ours."""
        path = f"{Path(sys.executable).parent}:{os.defpath}"
        return re.sub(r"/(?=opt/venv|home/app)", f"{root}/", text).replace("${PATH}", path)


def host_environment() -> dict[str, str]:
    """Our environment without what is about this Python; pip's settings stay, as a builder's would."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}


def exec_form(text: str) -> list[str]:
    command: list[str] = json.loads(text)
    return command
