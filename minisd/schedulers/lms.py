"""LMS: a linear multistep method over σ, which looks back at the last four slopes."""

from collections.abc import Sequence

import numpy as np
from numpy.polynomial import Polynomial
from torch import Tensor

from minisd.schedulers.base import Draw, Known, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import ADDED_NOISE
from minisd.schedulers.schedule import plan_between


def lms_step(x: Tensor, eps: Sequence[Tensor], sigmas: Sequence[float]) -> Tensor:
    """From the last but one σ to the last: exact, if the slope dx/dσ = ε were the polynomial through those known.

        x + ∫ p(σ) dσ = x + Σ_k c_k·ε_k

    Adams-Bashforth on unequal steps; Crowson's k-diffusion, `sample_lms` and `linear_multistep_coeff`:

        here      there
        x         x
        eps       ds, the slopes, the latest last
        sigmas    t, the σ of each slope, then that at which the step ends
    """
    weights = lms_weights(sigmas)  # linear_multistep_coeff
    return x + sum(weight * slope for weight, slope in zip(weights, reversed(eps)))


def lms_weights(sigmas: Sequence[float]) -> list[float]:
    """c_k, the latest first: the integral of the Lagrange polynomial that is 1 at its own σ and 0 at the others."""
    *known, end = (sigma - sigmas[-2] for sigma in sigmas)
    known.reverse()
    weights = []
    for k, node in enumerate(known):
        others = known[:k] + known[k + 1:]
        lagrange = Polynomial.fromroots(others) if others else Polynomial([1])
        weights.append(lagrange.integ()(end) / lagrange(node))
    return weights


class LMSDiscreteScheduler(Scheduler):
    """Of order 4, deterministic; one network call per step."""

    DEFAULTS = COMMON | {
        "timestep_spacing": "linspace", "use_karras_sigmas": False, "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
    }
    mixture = ADDED_NOISE
    memory = 3

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        return plan_between(self.config, steps, self._all_sigmas(), self.config["use_karras_sigmas"])

    def _move(self, now: Known, draw: Draw) -> Tensor:
        slopes = [*(earlier.eps for earlier in self.past), now.eps]
        # As in diffusers, a run that begins in the middle takes the weights of four slopes from its first step, when
        # it knows fewer: the weights of those unknown fall away.
        return lms_step(now.x, slopes, self.sigmas[max(0, now.i - 3): now.i + 2].tolist())
