"""What a release says about itself: a single version, which the changelog has, and cards that name their weights'."""

import re
import tomllib
from pathlib import Path

import pytest

import minisd

ROOT = Path(__file__).resolve().parents[2]
RELEASES = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "minisd.__version__"}
    assert "version:" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8").replace("cff-version:", "")


def test_the_changelog_begins_with_the_released_version():
    assert ".dev" in minisd.__version__ or minisd.__version__ == RELEASES[0]


@pytest.mark.parametrize("model", ["mini", "mini-inpaint"])
def test_a_card_names_the_version_of_its_weights(model):
    card = (ROOT / "assets" / model / "README.md").read_text(encoding="utf-8")
    version = re.search(r"^Weights of version ([\d.]+\d)", card, re.M)
    assert version[1] in {*RELEASES, minisd.__version__.split(".dev")[0]}


def test_the_issue_form_offers_every_notebook():
    form = (ROOT / ".github/ISSUE_TEMPLATE/notebook.yml").read_text(encoding="utf-8")
    assert re.findall(r"^ +- (\d\d_\w+)$", form, re.M) == sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb"))
