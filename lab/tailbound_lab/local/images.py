"""Image names as the folders of their handlers: what stands in for a container registry here."""

from collections.abc import Mapping
from pathlib import Path

from tailbound_lab.local.errors import InvalidRequestError, StartError


class Images:
    """Every known image and its handler folder."""

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}

    def add(self, image: str, folder: Path) -> None:
        """Make ``image`` deployable. Raises ``StartError`` if the folder cannot be one of a handler."""
        folder = folder.resolve()
        if not folder.is_dir():
            raise StartError(f"image {image}: {folder} is not a folder")
        if not any((folder / entry).exists() for entry in ("handler.py", "handler/__init__.py")):
            raise StartError(f"image {image}: there is no handler.py in {folder}")
        known = self._folders.setdefault(image, folder)
        if known != folder:
            raise StartError(
                f"image {image}: names both {known} and {folder}; give each handler its own image"
            )

    def folder(self, image: str) -> Path:
        """The handler folder of ``image``. Raises ``InvalidRequestError`` if there is none."""
        try:
            return self._folders[image]
        except KeyError:
            known = ", ".join(sorted(self._folders)) or "none"
            raise InvalidRequestError(
                f"image: {image!r} is not known here: images are not pulled but map to handler folders, by "
                f"--stack or --image NAME=FOLDER (known: {known})"
            ) from None

    def items(self) -> Mapping[str, Path]:
        """All of them."""
        return dict(self._folders)
