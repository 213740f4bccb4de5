"""Folders that are written completely or not at all, and where minisd's own assets are."""

from pathlib import Path

import pytest

from minisd import files


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    folder, rename = tmp_path / "model", Path.rename
    folder.mkdir()
    (folder / "old.txt").write_text("old")

    def fail(path, target):
        if path.name == "new":
            raise OSError("no permission")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no permission"), files.atomic_folder(folder) as new:
        (new / "new.txt").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["old.txt"]
    assert list(tmp_path.iterdir()) == [folder]


def test_assets_that_are_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "minisd" / "files.py"))
    with pytest.raises(FileNotFoundError, match=r"no folder 'assets' in .*minisd or beside it"):
        files.assets_folder()
    (tmp_path / "assets").mkdir()
    assert files.assets_folder() == tmp_path / "assets"
