"""The folders that reports are written into."""

from pathlib import Path


def make_folder(folder: Path) -> None:
    """Create a folder and what leads to it, where they are missing.

    Raises:
        NotADirectoryError: A file stands at `folder` or on the way to it.
        OSError: The folder cannot be created.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(f"expected a directory to write reports into, got {folder}, but {place} is a file")
    folder.mkdir(parents=True, exist_ok=True)
