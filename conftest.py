"""For pytest: compare the pictures in notebooks, too."""

pytest_plugins = ["tests.notebooks.pictures"]
