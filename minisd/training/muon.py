"""Muon: an optimiser for weight matrices, whose step is the orthogonalised momentum.

A gradient G = U Σ Vᵀ is usually dominated by a few directions, whose singular values are a hundred times as large as
the others. Steps along G learn those few again and again. Muon keeps the directions and forgets their sizes: it steps
along U Vᵀ, where all singular values are 1.

    M ← μ·M + (1 - μ)·G                      momentum
    N = (1 - μ)·G + μ·M                      Nesterov momentum: one step ahead
    W ← (1 - η·λ)·W - η·√max(1, rows/columns)·orthogonalise(N)

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
"""

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a·s + b·s³ + c·s⁵; it is steep at 0, so five steps suffice


def orthogonalise(matrix: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix (rows, columns) with the same singular vectors, but singular values of about 1 (0.7 to 1.2).

    A singular value decomposition would do this exactly, but slowly. Here each step computes
    a·X + b·(XXᵀ)X + c·(XXᵀ)²X, which turns every singular value s into a·s + b·s³ + c·s⁵ and leaves the singular
    vectors alone (a Newton-Schulz iteration).

    Args:
        dtype: of the matrix products; bfloat16 is accurate enough.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.mT).to(dtype)  # XXᵀ is the smaller of the two
    x = x / (x.norm() + 1e-7)                      # all singular values at most 1
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if wide else x.mT).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for matrices, and for kernels (out, in, k, k) treated as matrices (out, in·k·k).

    Args:
        parameters: each must have two dimensions or more.
        lr: η. Each step changes a weight matrix by about this much in every direction, whatever the gradient's size.
        momentum: μ.
        weight_decay: λ.
        dtype: of the matrix products.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float = 0.02, momentum: float = 0.95,
                 weight_decay: float = 0.0, dtype: torch.dtype = torch.float32):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.ndim < 2:
                raise ValueError(f"a parameter has shape {tuple(parameter.shape)}; it must be a matrix or a kernel")

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
                average = self.state[weight]["momentum"].lerp_(weight.grad, 1 - momentum)
                ahead = weight.grad.lerp(average, momentum).flatten(1)
                size = max(1, ahead.shape[0] / ahead.shape[1]) ** 0.5
                direction = orthogonalise(ahead, dtype=self.dtype).view_as(weight)
                weight.mul_(1 - rate * group["weight_decay"]).add_(direction, alpha=-rate * size)
