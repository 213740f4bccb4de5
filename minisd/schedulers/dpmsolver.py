"""DPM-Solver: solves the linear part of the ODE exactly and approximates only the network's part; few steps suffice."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from minisd.schedulers.base import DrawNoise, Evaluation, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import DPM
from minisd.schedulers.schedule import karras_range, karras_sigmas, spaced_timesteps, times_of_sigmas


def dpm_solver_step(x: Tensor, outputs: Sequence[Tensor], sigmas: Tensor, order: int = 2, solver_type: str = "midpoint",
                    algorithm_type: str = "dpmsolver++") -> Tensor:
    """x at the last of the noise levels, from x at the one before. The network's prediction m is extrapolated over the
    step, by its slope (order 2) or by slope and curvature (order 3):

        x' = σ'/σ·x - α'·(φ·m + c_1·slope + c_2·curvature)
        c_1 = φ/2 (order 2, "midpoint") or φ/k - 1, c_2 = (φ - k)/k² - 1/2

    Order 2 is algorithm 2, "2M", in Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
    Probabilistic Models"; order 3 is `multistep_dpm_solver_third_update` in the authors' code. "dpmsolver" is their
    earlier "DPM-Solver", which extrapolates ε instead of x0, and in which α and σ swap places:

        here                   in the paper
        x                      x at t_{i-1}
        outputs                m: x_θ ("dpmsolver++") or ε_θ ("dpmsolver") at …, t_{i-2}, t_{i-1}; as many as the order
        sigmas                 σ/α = e^{-λ} at …, t_{i-2}, t_{i-1} and t_i
        x_weight, m_weight     σ and α at all these times, or α and σ
        h                      h_i = λ at t_i - λ at t_{i-1}
        r0, r1                 r_i = h_{i-1}/h_i, and h_{i-2}/h_i
        k, phi                 -h and e^{-h} - 1, or h and e^h - 1
        slope, curvature       first and second derivative of m, per step
    """
    *_, h = steps = (-sigmas.log()).diff()  # the lengths of the steps so far and, last, of this one, in λ
    alphas = (sigmas**2 + 1) ** -0.5
    plus_plus = algorithm_type == "dpmsolver++"
    k, phi = (-h, (-h).expm1()) if plus_plus else (h, h.expm1())
    x_weight, m_weight = (sigmas * alphas, alphas) if plus_plus else (alphas, sigmas * alphas)
    change = phi * outputs[-1]  # order 1
    if order == 2:
        slope = (outputs[-1] - outputs[-2]) / (steps[-2] / h)  # algorithm 2: D_i is m + slope/2
        change = change + (phi / 2 if solver_type == "midpoint" else phi / k - 1) * slope
    elif order == 3:
        r0, r1 = steps[-2] / h, steps[-3] / h
        late = (outputs[-1] - outputs[-2]) / r0
        early = (outputs[-2] - outputs[-3]) / r1
        slope, curvature = late + r0 / (r0 + r1) * (late - early), (late - early) / (r0 + r1)
        change = change + (phi / k - 1) * slope + ((phi - k) / k**2 - 0.5) * curvature
    return x_weight[-1] / x_weight[-2] * x - m_weight[-1] * change  # algorithm 2, the update of x


# What related solvers (DEIS, UniPC, SA-Solver) say of themselves, and what diffusers takes instead.
RELATED = {"deis": "dpmsolver++", "data_prediction": "dpmsolver++", "logrho": "midpoint", "bh1": "midpoint",
           "bh2": "midpoint"}


class DPMSolverMultistepScheduler(Scheduler):
    """Deterministic; one network call per step, and ten to twenty steps are enough. The order is lower at the beginning
    of a run, where earlier outputs are missing, and at the end of a short one, for stability."""

    DEFAULTS = COMMON | {
        "timestep_spacing": "linspace", "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint",
        "lower_order_final": True, "euler_at_final": False, "final_sigmas_type": "zero", "thresholding": False,
        "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "variance_type": None,
        "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False, "use_lu_lambdas": False,
        "use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False, "time_shift_type": "exponential",
        "lambda_min_clipped": -np.inf, "rescale_betas_zero_snr": False,
    }
    mixture = DPM
    memory = 2

    def __init__(self, **config: Any):
        for field in ("algorithm_type", "solver_type"):
            if isinstance(value := config.get(field), str):
                config[field] = RELATED.get(value, value)
        super().__init__(**config)
        if self.config.algorithm_type == "dpmsolver" and self.config.final_sigmas_type == "zero":
            raise ValueError("DPMSolverMultistepScheduler: algorithm_type='dpmsolver' cannot step to σ = 0; it needs "
                             "final_sigmas_type='sigma_min'")

    def _plan(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        c, all_sigmas = self.config, self._all_sigmas()
        end = all_sigmas[0] if c.final_sigmas_type == "sigma_min" else 0.0
        if c.use_karras_sigmas:
            # the whole range, whatever the spacing
            sigmas = karras_sigmas(*karras_range(c, all_sigmas[-1], all_sigmas[0]), steps)
            times = times_of_sigmas(sigmas, all_sigmas)
            times = times if c.beta_schedule == "squaredcos_cap_v2" else times.round()
            return times.astype(np.int64), np.append(sigmas, end)
        # The end of the last step is one of the times to be spaced, except for "trailing", which leaves it out anyway.
        points = steps if c.timestep_spacing == "trailing" else steps + 1
        times = spaced_timesteps(c.timestep_spacing, points, c.num_train_timesteps, c.steps_offset)[:steps]
        times = times.round().astype(np.int64)
        if len(set(times)) < steps:
            raise ValueError(f"num_inference_steps={steps}: DPM-Solver needs distinct timesteps, but with "
                             f"timestep_spacing={c.timestep_spacing!r} two are equal; use fewer steps")
        return times, np.append(all_sigmas[times], end)

    def _advance(self, now: Evaluation, draw_noise: DrawNoise) -> Tensor:
        c = self.config
        known = [*self.past, now]
        outputs = [one.x0 if c.algorithm_type == "dpmsolver++" else one.eps for one in known]
        sigmas = self.sigmas[max(0, now.i - 2): now.i + 2].double()
        order = self._order(now.i, min(c.solver_order, len(known)))
        return dpm_solver_step(now.x, outputs, sigmas, order, c.solver_type, c.algorithm_type)

    def _order(self, i: int, max_order: int) -> int:
        """The order of the step at index i."""
        c, left, few = self.config, len(self._times) - i, len(self._times) < 15
        if left == 1:
            no_length = self.sigmas[-2] == self.sigmas[-1]  # with Karras sigmas that end at sigma_min
            euler = c.euler_at_final or c.final_sigmas_type == "zero" or (c.lower_order_final and few) or no_length
            return 1 if euler else max_order
        return min(max_order, 2) if left == 2 and c.lower_order_final and few else max_order
