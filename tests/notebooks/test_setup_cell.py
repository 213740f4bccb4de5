"""The set-up cell: silent where the course is installed, one line where it is not, never a name that is not ours."""

import json
import re
import sys
import types

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from tests.notebooks.files import CHAPTERS, ROOT
from tests.notebooks.setup_cell import address, setup_cell, write

WHEEL = "https://example.org/releases/v0.2.0/minisd-0.2.0-py3-none-any.whl"
REPOSITORY = "git+https://example.org/minisd@v0.2.0"


class Reader:
    """Runs cells as a notebook does. A package that pip is asked for is there afterwards, if the network is on."""

    def __init__(self, network: bool):
        self.shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
        self.asked, self.network = [], network
        self.shell.register_magic_function(self.pip, magic_name="pip")

    def pip(self, line: str) -> None:
        self.asked.append(line)
        if self.network:
            sys.modules["minisd"] = types.ModuleType("minisd")

    def run(self, source: str) -> bool:
        return self.shell.run_cell(source).success


@pytest.fixture(params=["here", "absent", "without torch"])
def course(request, monkeypatch, tmp_path):
    """How much of the course this Python has."""
    for name in [name for name in sys.modules if name.split(".")[0] == "minisd"]:
        monkeypatch.delitem(sys.modules, name)
    if request.param == "absent":
        monkeypatch.setitem(sys.modules, "minisd", None)
    else:
        (tmp_path / "minisd.py").write_text("" if request.param == "here" else "import torch_of_another_python")
        monkeypatch.syspath_prepend(tmp_path)
    return request.param


@pytest.mark.parametrize("found", [None, WHEEL, REPOSITORY])
@pytest.mark.parametrize("place", ["elsewhere", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "without network"])
def test_the_reader_gets_the_course_or_one_line(course, found, place, monkeypatch, capsys):
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    if place != "elsewhere":
        monkeypatch.setenv("COLAB_RELEASE_TAG" if place == "without network" else place, "1")
    reader = Reader(network=place != "without network")
    success = reader.run(setup_cell(found))
    out, error = capsys.readouterr()
    fetches = course == "absent" and found is not None and place != "elsewhere"
    assert reader.asked == ([f"install --quiet {found}"] if fetches else [])
    assert success == (course == "here" or (fetches and place != "without network"))
    assert out == ""
    if success:
        assert error == ""
    else:  # it stops "Run All", too
        assert re.fullmatch(r"UsageError: The package minisd cannot be imported here \(.*\)\. Get .*kernel\.\n", error)
        assert (found or "START.md") in error
        assert "Traceback" not in error


@pytest.mark.parametrize("found", ["minisd", "minisd==0.2.0", "git+https://example.org/minisd",
                                   "git+https://example.org/minisd@main", "http://example.org/minisd-0.2.0.zip",
                                   "https://example.org/minisd-latest-py3-none-any.whl", f"{WHEEL} torch", ""])
def test_an_address_whose_contents_may_change_is_refused(found):
    with pytest.raises(ValueError, match="must be a wheel's address"):
        address(f"[project.urls]\nInstall = {json.dumps(found)}")


@pytest.mark.parametrize("found", [WHEEL, f"{WHEEL}#sha256={'0f' * 32}", REPOSITORY, f"{REPOSITORY[:-6]}{'0f' * 20}"])
def test_the_address_is_that_of_pyproject(found):
    assert address(f'[project.urls]\nInstall = "{found}"') == found
    assert address("[project.urls]\nHomepage = 'https://example.org'") is None
    assert address("[project]\nname = 'minisd'") is None


def test_writing_it_changes_nothing_else(tmp_path):
    before = CHAPTERS[0].read_bytes()
    (path := tmp_path / "copy.ipynb").write_bytes(before)
    write(path, setup_cell(WHEEL))
    after = path.read_bytes()
    assert WHEEL.encode() in after
    assert len(set(after.splitlines()) - set(before.splitlines())) < len(setup_cell(WHEEL).splitlines())
    write(path, "".join(json.loads(before)["cells"][1]["source"]))
    assert path.read_bytes() == before


def test_the_pages_for_readers_never_install_a_bare_name():
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "notebooks").glob("*.md"),
             *(ROOT / "notebooks").rglob("*.ipynb"), *(ROOT / "minisd").rglob("*.py")]
    for path in pages:
        for line in path.read_text(encoding="utf-8").splitlines():
            bare = re.search(r"install.*[ '\"]minisd\b(?!-)", line)
            assert "pip install" not in line or "--no-index" in line or not bare, (path, line)


def test_start_tells_what_the_line_means():
    start = (ROOT / "notebooks" / "START.md").read_text(encoding="utf-8")
    assert "The package minisd cannot be imported here" in start
