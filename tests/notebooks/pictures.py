"""nbval compares what a cell prints, but not its pictures. This does, for every notebook that pytest runs.

A picture that is drawn again on another processor differs by rounding only; one with another seed, formula or axis
differs far more: a wrong seed brings the PSNR down to 11 dB, an axis that is 3 % longer to 24 dB. The threshold is 30.

If a network is trained in single precision in the notebook, rounding adds up over the steps: notebook 06's ablations,
computed without AVX, came within 23 dB of the stored ones. Such cells are tagged `trained-here`; their threshold is 20.
Where training can afford double precision (02 and 04), every computer gets the same network, and no tag is needed.

Another matplotlib sets letters and margins a little differently, which can exceed both; so the pinned one is required.
"""

import base64
import io
import re
from importlib.metadata import version

import numpy as np
import pytest
from nbval.plugin import IPyNbCell
from PIL import Image

from tests.clock import PATIENCE
from tests.notebooks.files import ROOT

PINNED = re.search(r"^matplotlib==(\S+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)[1]
LEAST, LEAST_TRAINED_HERE = 30.0, 20.0  # dB


def pngs(outputs: list) -> list[np.ndarray]:
    """The pictures among a cell's outputs, (H, W, 3), 0 to 255."""
    data = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB"), dtype=float) for one in data]


def difference(stored: np.ndarray, drawn: np.ndarray, least: float = LEAST) -> str | None:
    """A message that says what is wrong with a picture, or None."""
    if stored.shape != drawn.shape:
        return f"the stored picture has the shape {stored.shape}, the one drawn now {drawn.shape}"
    squared = float(np.square(stored - drawn).mean())
    psnr = 10 * np.log10(255**2 / squared) if squared else np.inf
    return None if psnr >= least else f"only {psnr:.1f} dB alike; it must be {least:.0f}"


def unlike(stored: list[np.ndarray], drawn: list[np.ndarray], least: float = LEAST) -> str | None:
    """A message that says what is wrong with a cell's pictures, or None."""
    if stored and (here := version("matplotlib")) != PINNED:
        return (f"comparing pictures needs matplotlib {PINNED}, with which they were stored, and {here} is here: "
                f"pip install matplotlib=={PINNED}")
    if len(stored) != len(drawn):
        return f"{len(stored)} pictures are stored, {len(drawn)} were drawn now"
    wrong = [difference(one, other, least) for one, other in zip(stored, drawn)]
    return next((f"picture {i}: {one}" for i, one in enumerate(wrong, 1) if one), None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Kernels start here; they should round as a reader's does, not as tests/conftest.py asks the tests to."""
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(item, IPyNbCell):
            item.output_timeout = PATIENCE  # for what a cell has said to arrive
            patch.delenv("MKL_CBWR", raising=False)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    if isinstance(item, IPyNbCell) and item.options["check"] and item.test_outputs is not None:
        least = LEAST_TRAINED_HERE if "trained-here" in item.cell.metadata.get("tags", []) else LEAST
        wrong = unlike(pngs(item.cell.outputs), pngs(item.test_outputs), least)
        assert wrong is None, f"{item.name}: {wrong}"
    return result
