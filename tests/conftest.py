"""Shared by all tests: quiet reference libraries, no network, one thread, tiny checkpoints."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["DIFFUSERS_VERBOSITY"] = "error"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
# Otherwise Intel's library rounds a product by how its factors lie in memory, for instance on AMD processors.
os.environ["MKL_CBWR"] = "COMPATIBLE"

import pytest
import torch

from tests.tiny import UNETS, save_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict[str, Path]:
    """Folders of tiny checkpoints: "sd1", "sd1-inpaint" and "sd2"."""
    folders = {kind: tmp_path_factory.mktemp("tiny") / kind for kind in UNETS}
    for kind, folder in folders.items():
        save_tiny(kind, folder)
    return folders


@pytest.fixture(autouse=True)
def float32_unless_said(monkeypatch):
    """Make the default dtype the same on every computer."""
    monkeypatch.setattr("minisd.checkpoint.fast_dtype", lambda device: torch.float32)
