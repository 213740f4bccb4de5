"""LMS: a linear multistep method over σ, which looks back at the last four slopes."""

from numpy.polynomial import Polynomial
from torch import Tensor

from minisd.randomness import Generators
from minisd.schedulers.base import StepOutput
from minisd.schedulers.config import COMMON
from minisd.schedulers.sigma import SigmaScheduler


class LMSDiscreteScheduler(SigmaScheduler):
    """Adams-Bashforth on unequal steps of σ, deterministic; Crowson's k-diffusion, `sample_lms`."""

    DEFAULTS = COMMON | {
        "timestep_spacing": "linspace", "use_karras_sigmas": False, "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
    }

    def step(self, model_output: Tensor, t: float | Tensor, x: Tensor, generator: Generators = None,
             return_dict: bool = True) -> StepOutput:
        """One step from σ_i to σ_{i+1}: exact, if the slope dx/dσ = ε were the polynomial p through the last four.

            x_{i+1} = x_i + ∫ p(σ) dσ = x_i + Σ_k c_k·ε_{i-k}        from σ_i to σ_{i+1}

        Args:
            model_output: what the network said about scale_model_input(x, t), shaped like x.
            generator: not used.

        Raises:
            ValueError: before set_timesteps, at a t that is none of the timesteps, or for different shapes.
        """
        i, output, x_t = self._begin_step(model_output, t, x)
        x0, eps = self._predict(output, x_t, i)
        self.history = [*self.history, eps][-4:]
        # As in diffusers, a run that begins in the middle takes the weights of four slopes from its first step, when
        # it knows fewer: the weights of those unknown fall away.
        weights = lms_coefficients(self.sigmas[max(0, i - 3): i + 2].tolist())
        prev = x_t + sum(weight * slope for weight, slope in zip(weights, reversed(self.history)))
        return self._end_step(prev, x0, x.dtype)


def lms_coefficients(sigmas: list[float]) -> list[float]:
    """The weights c_0 (of the latest slope), c_1, …, each the integral of a Lagrange polynomial, which is 1 at its own
    slope's σ and 0 at the others'.

    Args:
        sigmas: those of the known slopes, the oldest first, and that at which the step ends.
    """
    *known, end = (sigma - sigmas[-2] for sigma in sigmas)
    known.reverse()
    weights = []
    for k, node in enumerate(known):
        others = known[:k] + known[k + 1:]
        lagrange = Polynomial.fromroots(others) if others else Polynomial([1])
        weights.append(lagrange.integ()(end) / lagrange(node))
    return weights
