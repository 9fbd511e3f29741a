"""What faas-cli makes of a template and a handler folder, without faas-cli.

Its rules (go-sdk ``builder/builder.go`` and ``builder/copy.go``): symbolic links are followed, the handler's
entries are laid over the template's handler folder, entries called ``build`` or ``template`` are left out,
nothing is deleted. It makes folders with mode 0700, or some with their own; here all get the harshest.
"""

import json
import shutil
from pathlib import Path, PurePosixPath

import yaml


def pull_template(template: Path, destination: Path) -> Path:
    """``faas-cli template pull``: a copy with every link followed, and meta.json beside it."""
    copy(template, destination)
    meta = {"repository": "https://example.com/templates.git", "written_at": "2024-02-29T00:00:00Z"}
    (destination / "meta.json").write_text(json.dumps(meta))
    return destination


def shrinkwrap(template: Path, handler: Path, context: Path) -> Path:
    """``faas-cli build --shrinkwrap``: the build context, which docker would get."""
    copy(template, context)
    folder = yaml.safe_load((template / "template.yml").read_text()).get("handler_folder", "function")
    for entry in sorted(handler.iterdir()):
        if entry.name not in ("build", "template"):
            copy(entry, context / folder / entry.name)
    return context


def copy(source: Path, destination: Path) -> None:
    if source.is_dir():  # follows links, as faas-cli does
        destination.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in sorted(source.iterdir()):
            copy(entry, destination / entry.name)
    else:
        shutil.copy(source, destination)


def ignored(path: PurePosixPath, patterns: list[str]) -> bool:
    """True if .dockerignore keeps ``path`` from the builder; knows the two kinds of patterns that we use."""
    for pattern in patterns:
        if pattern.startswith("**/"):
            if any(PurePosixPath(part).match(pattern.removeprefix("**/")) for part in path.parts):
                return True
        else:
            depth = len(PurePosixPath(pattern).parts)
            if PurePosixPath(*path.parts[:depth]).match(pattern):
                return True
    return False


def send_to_builder(context: Path, destination: Path) -> Path:
    """The part of a context that .dockerignore lets through."""
    lines = (context / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    for file in sorted(context.rglob("*")):
        name = PurePosixPath(file.relative_to(context))
        if ignored(name, patterns):
            continue
        target = destination / name
        if file.is_dir():
            target.mkdir(mode=0o700, parents=True)
        else:
            shutil.copy(file, target)
    return destination
