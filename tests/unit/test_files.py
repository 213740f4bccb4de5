"""Where minisd's own assets are."""

import pytest

from minisd import files


def test_assets_that_are_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "__file__", str(tmp_path / "minisd" / "files.py"))
    with pytest.raises(FileNotFoundError, match=r"no folder 'assets' in .*minisd or beside it"):
        files.assets_folder()
    (tmp_path / "assets").mkdir()
    assert files.assets_folder() == tmp_path / "assets"
