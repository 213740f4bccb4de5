"""For pytest: compare the pictures in notebooks, too, and find the sanitizer from whatever folder it starts in."""

from pathlib import Path

pytest_plugins = ["tests.notebooks.pictures"]


def pytest_configure(config):
    config.option.nbval_sanitize_with = str(Path(__file__).parent / "tests" / "notebooks" / "sanitize.cfg")
