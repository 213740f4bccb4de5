"""How networks are built: for training with the right initial values, for published weights with none at all."""

import subprocess
import sys

import pytest
import torch

from minisd import TextEncoder
from minisd.network import EmptyWeights

TINY = {"vocab_size": 500, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}


def test_embeddings_begin_with_the_standard_deviation_of_clip():
    torch.manual_seed(0)
    embeddings = TextEncoder(**TINY).text_model.embeddings
    for embedding in (embeddings.token_embedding, embeddings.position_embedding):
        assert embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert embedding.weight.requires_grad


def test_without_weights_no_number_is_drawn_and_no_memory_taken():
    state = torch.get_rng_state()
    with EmptyWeights():
        network = TextEncoder(**TINY)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_building_without_weights_imports_nothing():
    """PyTorch's own way of building on the meta device imports 800 modules, which takes a second."""
    script = ("import sys; from minisd import VAE, TextEncoder, UNet; from minisd.network import EmptyWeights\n"
              "before = set(sys.modules)\n"
              "with EmptyWeights(): UNet(), VAE(), TextEncoder()\n"
              "print(*sys.modules.keys() - before)")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout == "\n"
