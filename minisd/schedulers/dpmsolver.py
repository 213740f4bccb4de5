"""DPM-Solver: solves the linear half of the ODE exactly, steps only over the network's half, and needs few steps."""

import numpy as np
from torch import Tensor

from minisd.randomness import Generators
from minisd.schedulers.base import StepOutput
from minisd.schedulers.config import COMMON
from minisd.schedulers.schedule import karras_sigmas, predictions, spaced_timesteps, times_of_sigmas
from minisd.schedulers.sigma import SigmaScheduler


class DPMSolverMultistepScheduler(SigmaScheduler):
    """Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models"; deterministic.

    "dpmsolver++" of order 2 ("2M") is what is used; "dpmsolver" is the older one, on ε instead of x0. It looks at σ,
    as the other σ samplers, but keeps x in the spelling alpha·x0 + sigma·ε, alpha = 1/sqrt(σ² + 1), sigma = σ·alpha.
    """

    DEFAULTS = COMMON | {
        "timestep_spacing": "linspace", "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint",
        "lower_order_final": True, "euler_at_final": False, "final_sigmas_type": "zero", "thresholding": False,
        "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "variance_type": None,
        "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False, "use_lu_lambdas": False,
        "use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False, "time_shift_type": "exponential",
        "lambda_min_clipped": -np.inf, "rescale_betas_zero_snr": False,
    }
    init_noise_sigma = 1.0

    def __init__(self, **config):
        super().__init__(**config)
        if self.config.algorithm_type == "dpmsolver" and self.config.final_sigmas_type == "zero":
            raise ValueError("DPMSolverMultistepScheduler: algorithm_type='dpmsolver' cannot step to σ = 0; it needs "
                             "final_sigmas_type='sigma_min'")

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        c, all_sigmas = self.config, self._all_sigmas()
        if c.use_karras_sigmas:
            sigmas = karras_sigmas(all_sigmas[-1], all_sigmas[0], steps)  # the whole range, whatever the spacing
            times = times_of_sigmas(sigmas, all_sigmas)
            times = times if c.beta_schedule == "squaredcos_cap_v2" else times.round()
            return times.astype(np.int64), sigmas
        # The end of the last step counts as a timestep, except where "trailing" leaves it out anyway.
        points = steps if c.timestep_spacing == "trailing" else steps + 1
        times = spaced_timesteps(c.timestep_spacing, points, c.num_train_timesteps, c.steps_offset)[:steps]
        times = times.round().astype(np.int64)
        if len(set(times)) < steps:
            raise ValueError(f"num_inference_steps={steps}: DPM-Solver needs different timesteps, and with "
                             f"timestep_spacing={c.timestep_spacing!r} two are alike; take fewer steps")
        return times, all_sigmas[times]

    def step(self, model_output: Tensor, t: int | Tensor, x: Tensor, generator: Generators = None,
             return_dict: bool = True) -> StepOutput:
        """One step from noise level s to t, h = log σ_s - log σ_t, φ = e^k - 1. For "dpmsolver++" m = x0 and k = -h;
        for "dpmsolver" m = ε, k = h, and alpha and sigma change places (algorithm 2, appendix B):

            x_t = sigma_t/sigma_s·x_s - alpha_t·(φ·m + c_1·D_1 + c_2·D_2)
            c_1 = φ/2 ("midpoint") or φ/k - 1 ("heun", and order 3)        c_2 = (φ - k)/k² - 1/2

        D_1 and D_2, from the differences of the latest m, are its first and second derivative in units of the step.

        Args:
            model_output: what the network said about x at timestep t, shaped like x.
            generator: not used.

        Raises:
            ValueError: before set_timesteps, at a t that is none of the timesteps, or for different shapes.
        """
        i, output, x_t = self._begin_step(model_output, t, x)
        x0, eps = self._predict(output, x_t, i)
        plus_plus = self.config.algorithm_type == "dpmsolver++"
        self.history = [*self.history, x0 if plus_plus else eps][-self.config.solver_order:]

        sigmas = self.sigmas[max(0, i - 2): i + 2].double()
        *_, h = lambdas = (-sigmas.log()).diff()  # of the steps up to now, and of this one
        alphas = (sigmas**2 + 1) ** -0.5
        k, phi = (-h, (-h).expm1()) if plus_plus else (h, h.expm1())
        old, new = (sigmas * alphas, alphas) if plus_plus else (alphas, sigmas * alphas)
        change = phi * self.history[-1]
        if self._solver_order(i) == 2:
            slope = (self.history[-1] - self.history[-2]) / (lambdas[-2] / h)
            change = change + (phi / 2 if self.config.solver_type == "midpoint" else phi / k - 1) * slope
        elif self._solver_order(i) == 3:
            r0, r1 = lambdas[-2] / h, lambdas[-3] / h
            late = (self.history[-1] - self.history[-2]) / r0
            early = (self.history[-2] - self.history[-3]) / r1
            slope, bend = late + r0 / (r0 + r1) * (late - early), (late - early) / (r0 + r1)
            change = change + (phi / k - 1) * slope + ((phi - k) / k**2 - 0.5) * bend
        prev = old[-1] / old[-2] * x_t - new[-1] * change
        return self._end_step(prev, x0, x.dtype)

    def _solver_order(self, i: int) -> int:
        """Lower where the run begins, for want of a history, and where it ends, for stability in few steps."""
        c, left, few = self.config, len(self._times) - i, len(self._times) < 15
        order = min(c.solver_order, len(self.history))
        if left == 1:
            standing = self.sigmas[-2] == self.sigmas[-1]  # Karras sigmas that end at sigma_min: a step of length 0
            euler = c.euler_at_final or c.final_sigmas_type == "zero" or (c.lower_order_final and few) or standing
            return 1 if euler else order
        return min(order, 2) if left == 2 and c.lower_order_final and few else order

    # --- the other spelling of x ------------------------------------------------------------------------------

    def scale_model_input(self, x: Tensor, t: float | Tensor | None = None) -> Tensor:
        """What the network is to see; here x itself."""
        return x

    def _predict(self, output: Tensor, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        alpha = (self.sigmas[i] ** 2 + 1) ** -0.5
        return predictions(self.config.prediction_type, output, x, alpha, self.sigmas[i] * alpha)

    def add_noise(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """alpha·x0 + sigma·noise at the timestep t, one or one for each item: of `timesteps`, if those were set."""
        sigma = self._sigma_at(x0, noise, t)
        return (x0 + sigma * noise) / (sigma**2 + 1) ** 0.5
