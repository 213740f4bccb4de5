"""Muon: a step along the gradient's directions, whatever their sizes."""

import pytest
import torch
from torch import Tensor, nn

from minisd.training.muon import Muon, orthogonalise


def matrix(rows: int, columns: int, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix with these singular values; and its singular vectors, U and Vᵀ."""
    u, v = (torch.linalg.qr(torch.randn(size, len(values)))[0] for size in (rows, columns))
    return u * values @ v.T, u, v.T


@pytest.mark.parametrize("shape", [(12, 12), (12, 40), (40, 12)])
def test_orthogonalised_has_singular_values_near_one_and_the_same_vectors(shape):
    torch.manual_seed(0)
    values = torch.logspace(0, -1.7, 12) * 1000  # the largest is fifty times the smallest
    before, u, v = matrix(*shape, values)
    after = orthogonalise(before)
    inside = u.T @ after @ v.T
    torch.testing.assert_close(inside, inside.diagonal().diag(), rtol=0, atol=1e-4)
    assert inside.diagonal().min() > 0.67  # positive: the vectors keep their signs
    assert inside.diagonal().max() < 1.21
    torch.testing.assert_close(after, u * inside.diagonal() @ v, rtol=0, atol=1e-4)


def test_orthogonalised_in_bfloat16_is_much_the_same():
    torch.manual_seed(0)
    before, _, _ = matrix(12, 40, torch.logspace(0, -1, 12))
    after = orthogonalise(before, dtype=torch.bfloat16)
    assert after.dtype == torch.float32
    assert not torch.equal(after, orthogonalise(before))
    torch.testing.assert_close(after, orthogonalise(before), rtol=0, atol=0.03)


def test_nothing_stays_nothing():
    assert not orthogonalise(torch.zeros(3, 5)).any()


def steps(weight: Tensor, gradients: list[Tensor], **options) -> Tensor:
    """The weight after steps with these gradients."""
    parameter = nn.Parameter(weight.clone())
    optimizer = Muon([parameter], **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize(("shape", "factor"), [((8, 8), 1.0), ((4, 16), 1.0), ((16, 4), 2.0)])
def test_step_is_as_long_whatever_the_gradient(shape, factor):
    torch.manual_seed(0)
    weight, gradient = torch.randn(shape), torch.randn(shape)
    for size in (1e-3, 1.0, 1e3):
        moved = weight - steps(weight, [size * gradient], lr=0.1)
        torch.testing.assert_close(moved, 0.1 * factor * orthogonalise(gradient), rtol=1e-3, atol=1e-4)


def test_momentum_looks_one_step_ahead():
    torch.manual_seed(0)
    one, two = torch.randn(2, 6, 6)
    first = steps(torch.zeros(6, 6), [one], lr=1.0, momentum=0.75)
    average = 0.75 * (0.25 * one) + 0.25 * two
    expected = first - orthogonalise(0.25 * two + 0.75 * average)
    torch.testing.assert_close(steps(torch.zeros(6, 6), [one, two], lr=1.0, momentum=0.75), expected,
                               rtol=1e-4, atol=1e-4)


def test_weights_decay_by_themselves():
    weight = torch.randn(5, 5)
    torch.testing.assert_close(steps(weight, [torch.zeros(5, 5)] * 3, lr=0.1, weight_decay=0.5), 0.95**3 * weight)


def test_kernels_are_matrices_with_a_row_per_output():
    torch.manual_seed(0)
    weight, gradient = torch.randn(2, 8, 3, 2, 2)
    as_matrix = steps(weight.view(8, 12), [gradient.view(8, 12)], lr=0.1)
    torch.testing.assert_close(steps(weight, [gradient], lr=0.1), as_matrix.view(8, 3, 2, 2))
    parameter = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    parameter.grad = gradient.contiguous(memory_format=torch.channels_last)
    Muon([parameter], lr=0.1).step()
    torch.testing.assert_close(parameter.detach(), as_matrix.view(8, 3, 2, 2))


def test_what_has_no_gradient_stays():
    parameter = nn.Parameter(torch.ones(3, 3))
    Muon([parameter], weight_decay=0.5).step()
    assert (parameter == 1).all()


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"a parameter has shape \(3,\); it must be a matrix or a kernel"):
        Muon([nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))])
