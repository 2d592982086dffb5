"""What lies below a folder, whatever that is."""

import os
import socket
from pathlib import Path

import pytest

from gradguard.runs.files import NotAFileError, Skipped, open_regular, walk


def folders(top: Path) -> tuple[list[str], list[Skipped]]:
    """The folders below a folder, and what was skipped."""
    skipped: list[Skipped] = []
    return [os.path.relpath(folder, top) for folder, _ in walk(str(top), skipped.append)], skipped


def test_a_link_to_a_parent_is_followed_once(tmp_path: Path) -> None:
    """A folder that is reached on several ways is listed once, and each further way is named."""
    (tmp_path / "run" / "deep").mkdir(parents=True)
    (tmp_path / "run" / "up").symlink_to("..")
    (tmp_path / "run" / "deep" / "here").symlink_to(".")
    found, skipped = folders(tmp_path)
    assert found == [".", "run", "run/deep"]
    assert [(Path(one.path).name, one.is_loss) for one in skipped] == [("up", False), ("here", False)]


def test_a_folder_is_listed_under_its_own_name(tmp_path: Path) -> None:
    """Also where a link to it comes first in the order of names."""
    (tmp_path / "run").mkdir()
    (tmp_path / "latest").symlink_to("run")
    assert folders(tmp_path)[0] == [".", "run"]


def test_a_link_that_leads_elsewhere_is_followed(tmp_path: Path) -> None:
    """Runs on another disk are often linked into one folder, each with links of its own."""
    top, elsewhere = tmp_path / "top", tmp_path / "elsewhere"
    top.mkdir()
    (elsewhere / "run").mkdir(parents=True)
    (top / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(top)
    assert folders(top)[0] == [".", "linked", "linked/run"]


def test_links_to_each_other_end(tmp_path: Path) -> None:
    """A loop of links leads to no folder at all, and is a file that cannot be opened."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert folders(tmp_path)[0] == ["."]
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(str(tmp_path / "a"))


def test_nothing_is_opened_that_may_never_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a pipe without a writer, nor a socket, nor a device, nor a folder; each is named for what it is."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # the path of a socket is short
        bound.bind("socket")
        for name, kind in (
            ("pipe", "a named pipe"),
            ("socket", "a socket"),
            ("zero", "a device"),
            (".", "a directory"),
        ):
            with pytest.raises(NotAFileError, match=f"is {kind}"):
                open_regular(str(tmp_path / name))


def test_a_name_that_is_no_utf_8_is_a_name(tmp_path: Path) -> None:
    """Files are opened by the bytes of their names."""
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    folder.mkdir()
    (folder / os.fsdecode(b"log\x80.jsonl")).write_bytes(b"here")
    (_, _), (_, [path]) = walk(str(tmp_path), pytest.fail)
    with open_regular(path) as file:
        assert file.read() == b"here"
