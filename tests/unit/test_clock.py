"""No test has a time limit of its own, which would be too short for some machine on some day."""

import re
import tomllib
from pathlib import Path

from hypothesis import HealthCheck, settings

from tests.clock import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
LIMIT = re.compile(r"timeout=\d|\.(join|wait|wait_for)\(\d|seconds=\d")


def test_processes_are_waited_for_with_patience_only():
    found = {str(path): LIMIT.findall(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("*.py")}
    assert not {path for path, limits in found.items() if limits}


def test_notebooks_and_hypothesis_wait_as_long():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert re.findall(r"-timeout=(\d+)", options["addopts"]) == [str(PATIENCE)] * 2
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
