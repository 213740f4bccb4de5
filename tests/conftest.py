"""Shared by all tests: quiet reference libraries, no network, one thread, no time limits, tiny checkpoints."""

import os
import random
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["DIFFUSERS_VERBOSITY"] = "error"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
# Otherwise, how Intel's library rounds a product depends on how its factors lie in memory (on AMD processors, say).
os.environ["MKL_CBWR"] = "COMPATIBLE"

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.tiny import UNETS, save_tiny

torch.set_num_threads(1)
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_runtest_setup(item):
    """Random numbers without a seed of their own are the same whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> dict[str, Path]:
    """Folders of tiny checkpoints: "sd1", "sd1-inpaint" and "sd2"."""
    folders = {kind: tmp_path_factory.mktemp("tiny") / kind for kind in UNETS}
    for kind, folder in folders.items():
        save_tiny(kind, folder)
    return folders


@pytest.fixture(scope="session")
def world():
    """The data set that the models are trained on."""
    from minisd.emoji.world import EmojiData

    return EmojiData("core")


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    """A folder of tiny networks that the U-Net's training needs: vae/vae, clip/… and unet/unet."""
    from tests.toy import save_tiny_parts

    save_tiny_parts(folder := tmp_path_factory.mktemp("parts"))
    return folder


@pytest.fixture(autouse=True)
def float32_unless_said(monkeypatch):
    """Make the default dtype the same on every computer."""
    monkeypatch.setattr("minisd.checkpoint.fast_dtype", lambda device: torch.float32)
