"""Where files are written, where they end up, and that none is lost on the way."""

import asyncio
import os
from pathlib import Path

import pytest

from tertulia.egress.outputs.recording import claim, replace_file
from tertulia.egress.outputs.storage import DirectoryStorage
from tertulia.egress.outputs.upload import Depot
from tertulia.protocol.errors import RequestError
from tests.unit.egress_outputs.test_hls import Moody


async def test_without_a_storage_a_file_stays_where_it_is(tmp_path: Path) -> None:
    depot = Depot(tmp_path)
    stored = await depot.write("a/b.json", b"{}", "application/json")
    assert stored == ("a/b.json", str(tmp_path / "a/b.json"), 2, False, "")
    assert depot.location("a/b.json") == str(tmp_path / "a/b.json")
    assert (tmp_path / "a/b.json").read_bytes() == b"{}"
    assert not depot.uploads


async def test_locations_are_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored = await Depot(Path("recordings")).write("a", b"1", "text/plain")
    assert stored.location == str(tmp_path / "recordings/a")


async def test_the_local_copy_goes_once_it_is_elsewhere(tmp_path: Path) -> None:
    depot = Depot(tmp_path / "near", DirectoryStorage(tmp_path / "far"))
    kept = await depot.write("a/b.json", b"1", "application/json", last=False)
    assert kept.location == str(tmp_path / "far/a/b.json") == depot.location("a/b.json")
    assert os.listdir(tmp_path / "near/a") == ["b.json"]
    await depot.write("a/b.json", b"2", "application/json")
    assert os.listdir(tmp_path / "near") == []
    assert (tmp_path / "far/a/b.json").read_bytes() == b"2"


async def test_both_storages_refuse(tmp_path: Path) -> None:
    depot = Depot(tmp_path / "near", Moody(tmp_path / "x", 99), Moody(tmp_path / "y", 99))
    stored = await depot.write("a", b"1", "text/plain")
    assert stored.location == str(tmp_path / "near/a")
    assert stored.error == f"upload failed: s3: answered 500; s3: answered 500; kept at {tmp_path / 'near/a'}"


async def test_a_file_that_is_gone(tmp_path: Path) -> None:
    assert "gone" in (await Depot(tmp_path).store("a", "text/plain")).error


async def test_a_directory_removed_as_empty_comes_back(tmp_path: Path) -> None:
    """An upload removes the directory it emptied, while another output is about to write there."""
    depot = Depot(tmp_path / "near", DirectoryStorage(tmp_path / "far"))
    path = depot.local("shots/b.jpeg")
    await depot.write("shots/a.jpeg", b"1", "image/jpeg")
    assert os.listdir(tmp_path / "near") == []
    await asyncio.to_thread(replace_file, path, b"2")
    assert path.read_bytes() == b"2"
    path.unlink()
    path.parent.rmdir()
    os.close(claim(path))
    assert path.exists()


def test_replace_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    replace_file(path, b"old")

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "name", ["", "..", "a/../../b", "/a", "a/", "a\nb", "a\\b", "é" * 130, "a/" * 600 + "b", "\ud800"]
)
def test_names_are_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="filepath"):
        Depot(tmp_path).local(name)
