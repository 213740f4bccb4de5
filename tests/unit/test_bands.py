"""The VAE's decoder in little memory: the same picture, up to float32 rounding."""

import pytest
import torch
from torch.profiler import profile

from minisd import VAE


def peak_memory(function) -> int:
    """The most bytes that tensors made inside `function` held at once, as torch's allocator counts them."""
    with profile(profile_memory=True) as seen:
        function()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return VAE(block_out_channels=(16, 16, 32, 32), layers_per_block=1, norm_num_groups=4).requires_grad_(False)


@pytest.mark.parametrize("size", [(1, 4, 8, 8), (2, 4, 5, 9), (1, 4, 1, 3)])
def test_it_is_the_same_picture(vae, size):
    z = torch.randn(size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vae.decode(z, in_bands=True), vae.decode(z), atol=1e-5, rtol=1e-4)


def test_a_corner_that_is_brighter_changes_the_others_just_as_much(vae):
    """This is what tiles that are normalised separately get wrong."""
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    z[:, :, :4, :4] += 20
    whole = vae.decode(z)
    torch.testing.assert_close(vae.decode(z, in_bands=True), whole, atol=1e-5, rtol=1e-4)
    apart = torch.cat([vae.decode(half) for half in z.chunk(2, dim=2)], dim=2)
    assert (apart - whole).abs().max() > 0.05  # so this test can fail


def test_it_takes_less_than_half_of_the_memory(vae):
    z = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        vae.decode(z)
        assert peak_memory(lambda: vae.decode(z, in_bands=True)) < 0.5 * peak_memory(lambda: vae.decode(z))
