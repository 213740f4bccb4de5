"""For pytest only: pictures in notebooks are compared, too."""

pytest_plugins = ["tests.notebooks.pictures"]
