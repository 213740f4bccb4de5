"""What a release says about itself: one version, which the changelog has, cards that name it, and what it needs."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import minisd

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RELEASES = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)


def test_the_version_stands_in_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "minisd.__version__"}
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


# --- what it needs ----------------------------------------------------------------------------------------------


def requirements(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(one.name): one for one in map(Requirement, lines)}


NEEDED = requirements([*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["course"]])


def test_the_versions_that_the_notebooks_ran_with_are_allowed_and_none_is_missing():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = requirements([line for line in lines if not line.startswith("#")])
    assert pinned.keys() == NEEDED.keys()
    for name, one in pinned.items():
        version, = one.specifier
        assert version.operator == "=="
        assert version.version in NEEDED[name].specifier, name


def test_matplotlib_is_new_enough():
    assert [version in NEEDED["matplotlib"].specifier for version in ("3.8.0", "3.8.1")] == [False, True]


def test_conda_and_binder_get_the_cpu_build_of_pytorch():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["dependencies"][-1]["pip"] == ["--extra-index-url https://download.pytorch.org/whl/cpu",
                                                      "-r requirements.txt", "-e ."]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"conda env create -f environment\.yml.*For the\s+CUDA build", readme, re.S)


# --- where it is tested -----------------------------------------------------------------------------------------


def test_a_push_runs_the_notebooks_on_linux_only_and_ends_the_run_before():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    assert workflow["concurrency"] == {"group": "tests-${{ github.event_name }}-${{ github.ref }}",
                                       "cancel-in-progress": True}
    jobs = workflow["jobs"]
    assert jobs["notebook"]["strategy"]["matrix"]["os"] == "${{ fromJSON(needs.list.outputs.systems) }}"
    weekly, push = jobs["list"]["steps"][-1]["run"].split("*)")
    systems = [re.findall(r"'systems=(.*)'", part) for part in (weekly, push)]
    assert systems == [['["ubuntu-latest", "macos-latest", "windows-latest"]'], ['["ubuntu-latest"]']]
    assert "schedule | workflow_dispatch)" in weekly
    assert jobs["list"]["outputs"]["systems"] == "${{ steps.list.outputs.systems }}"
