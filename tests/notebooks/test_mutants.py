"""The notebooks are a regression test for the package: if a constant in it changes, one of them fails.

Each mutant is a copy of `minisd` with one change, which the notebook's kernel imports instead of the real one.
"""

import os
import shutil
import subprocess
import sys

import nbformat
import pytest

from tests.notebooks.files import CHAPTERS, ROOT, read

# notebook, file, the original code, the mutant's code
MUTANTS = [
    ("00_first_picture", "pipeline.py", "guidance_scale * (positive - negative)",
     "1.05 * guidance_scale * (positive - negative)"),
    ("01_noise", "schedulers/schedule.py", "+ 0.008) / 1.008", "+ 0.012) / 1.012"),
    ("01_noise", "schedulers/mixture.py", "a * x0 + b * noise", "a * x0 + b * noise * 0.98"),
    ("02_ddpm", "schedulers/ddpm.py", "variance**0.5 * noise", "variance**0.48 * noise"),
    ("03_samplers", "schedulers/lms.py", "memory = 3", "memory = 2"),
    ("03_samplers", "schedulers/dpmsolver.py", "phi / 2 if solver_type", "phi / 2.05 if solver_type"),
    ("04_vae", "vae.py", "(0.5 * self.log_variance).exp()", "(0.51 * self.log_variance).exp()"),
    ("04_vae", "blocks.py", "(0, 1, 0, 1)", "(1, 0, 1, 0)"),
    ("05_text", "text_encoder.py", "torch.sigmoid(1.702 * x)", "torch.sigmoid(1.6 * x)"),
    ("05_text", "attention.py", "is_causal=causal", "is_causal=False"),
    ("06_unet", "unet.py", "angles.cos(), angles.sin()", "angles.sin(), angles.cos()"),
    ("06_unet", "transformer.py", "F.gelu(gate).mul_(value)", "F.silu(gate).mul_(value)"),
    ("07_training", "schedulers/mixture.py", "a * noise - b * x0", "a * noise - 0.98 * b * x0"),
    ("09_image_to_image", "pipeline.py", "int(num_inference_steps * strength)",
     "round(num_inference_steps * strength + 0.6)"),
    ("10_inpainting", "pipeline.py", "timesteps[i + 1: i + 2].repeat(len(clean))",
     "timesteps[i: i + 1].repeat(len(clean))"),
    ("10_inpainting", "training/inpaint.py", "(0, 0, 0, 0, 0, in_channels - old.shape[1])",
     "(0, 0, 0, 0, in_channels - old.shape[1], 0)"),
    ("11_published_weights", "bands.py", "squares / count - mean**2", "squares / count - 0.9 * mean**2"),
    ("01_noise", "plot.py", 'interpolation="nearest", **{"vmin"', 'interpolation="bilinear", **{"vmin"'),
]
# What of a notebook is left out, because it trains for a minute and nothing of the package, nor what comes after it,
# needs that: cells in which one of these words stands.
LEFT_OUT = {"04_vae": ("optimise([", "codes.mean(", "+ spread * dice", "= train_toy(", "def live_loss(")}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the project, with notebooks without what takes long and a package that may be changed."""
    folder = tmp_path_factory.mktemp("mutants")
    shutil.copytree(ROOT / "minisd", folder / "minisd", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("assets", "tests", "conftest.py", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "notebooks").mkdir()
    for path in CHAPTERS:
        notebook, words = read(path), LEFT_OUT.get(path.stem, ())
        for word in words:
            assert any(word in cell.source for cell in notebook.cells), f"{word!r} stands nowhere in {path.name}"
        notebook.cells = [cell for cell in notebook.cells if not any(word in cell.source for word in words)]
        nbformat.write(notebook, folder / "notebooks" / path.name)
    return folder


def run(notebook: str, folder) -> subprocess.CompletedProcess:
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist",
               f"notebooks/{notebook}.ipynb"]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("notebook", "file", "old", "new"), MUTANTS,
                         ids=[f"{notebook}-{file}" for notebook, file, *_ in MUTANTS])
def test_a_changed_constant_makes_a_notebook_fail(copy, notebook, file, old, new):
    path = copy / "minisd" / file
    before = path.read_text()
    assert before.count(old) == 1, f"{old!r} should stand once in {file}"
    try:
        path.write_text(before.replace(old, new))
        done = run(notebook, copy)
    finally:
        path.write_text(before)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{notebook}.ipynb" in done.stdout
    assert "1 failed" in done.stdout


def test_without_a_mutant_the_copy_passes(copy):
    """One from which cells are left out: no other may need them."""
    done = run("04_vae", copy)
    assert done.returncode == 0, done.stdout + done.stderr
