"""LMS: a linear multistep method over σ, which uses the last four slopes."""

from collections.abc import Sequence

import numpy as np
from numpy.polynomial import Polynomial
from torch import Tensor

from minisd.schedulers.base import DrawNoise, Evaluation, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import ADDED_NOISE
from minisd.schedulers.schedule import plan_fractional_times


def lms_step(x: Tensor, eps: Sequence[Tensor], sigmas: Sequence[float]) -> Tensor:
    """x at the last σ, from x at the one before. The slope dx/dσ = ε is continued as the polynomial p through the known
    slopes, which can be integrated exactly:

        x + ∫ p(σ) dσ = x + Σ_k c_k·ε_k

    This is Adams-Bashforth with steps of unequal length; Crowson's k-diffusion, `sample_lms` and
    `linear_multistep_coeff`:

        here      there
        x         x
        eps       ds: the known slopes, the latest last
        sigmas    t: the σ of each slope, then the σ at which the step ends
    """
    weights = lms_weights(sigmas)  # linear_multistep_coeff
    return x + sum(weight * slope for weight, slope in zip(weights, reversed(eps)))


def lms_weights(sigmas: Sequence[float]) -> list[float]:
    """c_k, the latest first: the integral of the Lagrange polynomial that is 1 at σ_k and 0 at the other slopes' σ."""
    *known, end = (sigma - sigmas[-2] for sigma in sigmas)
    known.reverse()
    weights = []
    for k, node in enumerate(known):
        others = known[:k] + known[k + 1:]
        lagrange = Polynomial.fromroots(others) if others else Polynomial([1])
        weights.append(lagrange.integ()(end) / lagrange(node))
    return weights


class LMSDiscreteScheduler(Scheduler):
    """Of order 4, and lower in the first steps; deterministic; one network call per step."""

    DEFAULTS = COMMON | {
        "timestep_spacing": "linspace", "use_karras_sigmas": False, "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
    }
    mixture = ADDED_NOISE
    memory = 3

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        config = {**self.config, "sigma_min": None, "sigma_max": None}  # another's, which do not count, as in diffusers
        return plan_fractional_times(config, steps, self._all_sigmas(), config["use_karras_sigmas"])

    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        slopes = [*(earlier.eps for earlier in self.past), now.eps]
        # As in diffusers, a run that begins in the middle uses the weights for four slopes from its first step on,
        # although it does not have four yet: lms_step leaves out the missing terms.
        return lms_step(now.x, slopes, self.sigmas[max(0, now.i - 3): now.i + 2].tolist())
