"""The set-up cell, the first code of every notebook, follows from one line of pyproject.toml.

    python -m tests.notebooks.setup_cell     write it into the notebooks (`make setup-cells`)

Where the course is installed, the cell does nothing. Elsewhere it says in one line how to get it. Colab and Kaggle,
which have PyTorch but not the course, fetch it from the address `Install` under [project.urls], once there is one.
A bare name would let whoever registers it on PyPI run code in every reader's session, and so would an address without
a version, whoever can change what lies there. Binder has installed environment.yml before a notebook opens.
"""

import json
import re
import tomllib
from pathlib import Path

from tests.notebooks.files import CHAPTERS, ROOT, SOLUTIONS

FIXED = re.compile(r"https://[\w./~%-]+/minisd-\d[\w.]*-py3-none-any\.whl(#sha256=[0-9a-f]{64})?"
                   r"|git\+https://[\w./~%-]+@(v?\d+(\.\w+)+|[0-9a-f]{40})")

WITHOUT_ADDRESS = '''from importlib import import_module

from IPython.core.error import UsageError

try:
    import_module("minisd")
except ImportError as error:
    raise UsageError(f"The package minisd cannot be imported here ({error}). Get the whole course "
                     "where you got this notebook, set it up as its README or START.md says, and "
                     "choose that Python as the notebook's kernel.") from None'''

WITH_ADDRESS = '''import os
from importlib import import_module
from importlib.util import find_spec

from IPython.core.error import UsageError

course = "ADDRESS"
hosted = os.environ.keys() & {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"}
if hosted and not find_spec("minisd"):
    %pip install --quiet {course}
try:
    import_module("minisd")
except ImportError as error:
    raise UsageError(f"The package minisd cannot be imported here ({error}). Get it with %pip install "
                     f"{course} (on Kaggle, turn on the internet first), or set up the whole course "
                     "as its README says and choose that Python as the notebook's kernel.") from None'''


def address(pyproject: str) -> str | None:
    """Where the notebooks get the course, or None while that is not decided.

    Raises:
        ValueError: it is not the address of a wheel or of a tagged repository, whose contents never change.
    """
    found = tomllib.loads(pyproject)["project"].get("urls", {}).get("Install")
    if found is not None and not FIXED.fullmatch(found):
        raise ValueError(f"Install = {found!r} under [project.urls]: it must be a wheel's address, such as "
                         "https://…/minisd-0.2.0-py3-none-any.whl, or a repository's at a version or a commit, such "
                         "as git+https://…/minisd@v0.2.0")
    return found


def setup_cell(found: str | None) -> str:
    """The cell's source, for an address or for none."""
    return WITH_ADDRESS.replace("ADDRESS", found) if found else WITHOUT_ADDRESS


def write(path: Path, source: str) -> None:
    """Replace the set-up cell of a notebook, and nothing else in the file."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell, = (cell for cell in notebook["cells"] if "setup" in cell["metadata"].get("tags", []))
    cell["source"] = source.splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    cell = setup_cell(address((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    for notebook in CHAPTERS + SOLUTIONS:
        write(notebook, cell)
