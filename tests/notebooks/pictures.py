"""nbval compares what a cell prints, but not its pictures: this does, for every notebook that pytest runs.

A picture that was drawn again on another processor differs by rounding; one with another seed, formula or axis differs
by far more (a wrong seed 11 dB, an axis 3 % longer 24 dB). The gate between the two is 30 dB.

Where a network is trained in single precision and then shown, rounding adds up over the steps: notebook 06's ablations,
computed without AVX, were 23 dB like the stored ones. Such cells are tagged `trained-here`, and their gate is 20 dB.
Where a training can afford double precision (02 and 04), every computer gets the same network, and no tag is needed.
"""

import base64
import io

import numpy as np
import pytest
from nbval.plugin import IPyNbCell
from PIL import Image

LEAST, LEAST_TRAINED_HERE = 30.0, 20.0  # dB


def pngs(outputs: list) -> list[np.ndarray]:
    """The pictures among a cell's outputs, (H, W, 3), 0 to 255."""
    data = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB"), dtype=float) for one in data]


def difference(stored: np.ndarray, drawn: np.ndarray, least: float = LEAST) -> str | None:
    """What is wrong with a picture, or None."""
    if stored.shape != drawn.shape:
        return f"the stored picture has the shape {stored.shape}, the one drawn now {drawn.shape}"
    squared = float(np.square(stored - drawn).mean())
    psnr = 10 * np.log10(255**2 / squared) if squared else np.inf
    return None if psnr >= least else f"only {psnr:.1f} dB alike; it must be {least:.0f}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    """Kernels start here; they are to round as a reader's do, and not as tests/conftest.py asks for."""
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(item, IPyNbCell):
            patch.delenv("MKL_CBWR", raising=False)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    result = yield
    if isinstance(item, IPyNbCell) and item.options["check"] and item.test_outputs is not None:
        stored, drawn = pngs(item.cell.outputs), pngs(item.test_outputs)
        assert len(stored) == len(drawn), f"{len(stored)} pictures are stored, {len(drawn)} were drawn now"
        least = LEAST_TRAINED_HERE if "trained-here" in item.cell.metadata.get("tags", []) else LEAST
        for i, (one, other) in enumerate(zip(stored, drawn), 1):
            wrong = difference(one, other, least)
            assert wrong is None, f"picture {i} of {item.name}: {wrong}"
    return result
