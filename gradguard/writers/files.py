"""Folders for the files of writers."""

from pathlib import Path


def make_folder(folder: Path) -> None:
    """Create a folder and its parents if they are missing.

    Raises:
        NotADirectoryError: `folder` or one of its parents is a file.
        OSError: The folder cannot be created.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"expected a directory to write reports into, got {folder}, but {path} is a file")
    folder.mkdir(parents=True, exist_ok=True)
