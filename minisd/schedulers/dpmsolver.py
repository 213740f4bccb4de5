"""DPM-Solver: solves the linear half of the ODE exactly, steps only over the network's half, and needs few steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from minisd.schedulers.base import Draw, Known, Scheduler
from minisd.schedulers.config import COMMON
from minisd.schedulers.mixture import DPM
from minisd.schedulers.schedule import karras_sigmas, spaced_timesteps, times_of_sigmas


def dpm_solver_step(x: Tensor, outputs: Sequence[Tensor], sigmas: Tensor, order: int = 2, solver_type: str = "midpoint",
                    algorithm_type: str = "dpmsolver++") -> Tensor:
    """From the last but one noise level to the last, along m and the derivatives that its last values suggest:

        x' = σ'/σ·x - α'·(φ·m + c_1·slope + c_2·bend)        c_1 = φ/2 or φ/k - 1        c_2 = (φ - k)/k² - 1/2

    Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models" ("2M" is order 2),
    and their "DPM-Solver", on ε, in which α and σ change places:

        here               in the paper (algorithm 2, and appendix B for order 3)
        x                  x at t_{i-1}
        outputs            m: x_θ ("dpmsolver++") or ε_θ ("dpmsolver") at …, t_{i-2}, t_{i-1}; as many as the order
        sigmas             σ/α at …, t_{i-2}, t_{i-1} and t_i: log σ is -λ
        old, new           (σ, α) of the first half and of the second, at all these times
        h                  h_i = λ at t_i - λ at t_{i-1}
        r0, r1             r_i = h_{i-1}/h_i, and h_{i-2}/h_i
        k, phi             -h and e^{-h} - 1, or h and e^h - 1
        slope, bend        first and second derivative of m, in units of the step
    """
    *_, h = lambdas = (-sigmas.log()).diff()  # of the steps up to now, and of this one
    alphas = (sigmas**2 + 1) ** -0.5
    plus_plus = algorithm_type == "dpmsolver++"
    k, phi = (-h, (-h).expm1()) if plus_plus else (h, h.expm1())
    old, new = (sigmas * alphas, alphas) if plus_plus else (alphas, sigmas * alphas)
    change = phi * outputs[-1]  # all of order 1
    if order == 2:
        slope = (outputs[-1] - outputs[-2]) / (lambdas[-2] / h)  # algorithm 2: D_i is m + slope/2
        change = change + (phi / 2 if solver_type == "midpoint" else phi / k - 1) * slope
    elif order == 3:
        r0, r1 = lambdas[-2] / h, lambdas[-3] / h  # appendix B
        late = (outputs[-1] - outputs[-2]) / r0
        early = (outputs[-2] - outputs[-3]) / r1
        slope, bend = late + r0 / (r0 + r1) * (late - early), (late - early) / (r0 + r1)
        change = change + (phi / k - 1) * slope + ((phi - k) / k**2 - 0.5) * bend
    return old[-1] / old[-2] * x - new[-1] * change  # algorithm 2, its update of x


# What related solvers (DEIS, UniPC, SA-Solver) say of themselves, and what diffusers takes instead.
RELATED = {"deis": "dpmsolver++", "data_prediction": "dpmsolver++", "logrho": "midpoint", "bh1": "midpoint",
           "bh2": "midpoint"}


class DPMSolverMultistepScheduler(Scheduler):
    """Deterministic; one network call per step, of which ten to twenty are enough. The order is lower where the run
    begins, for want of earlier outputs, and where it ends, for stability in few steps."""

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
            sigmas = karras_sigmas(all_sigmas[-1], all_sigmas[0], steps)  # the whole range, whatever the spacing
            times = times_of_sigmas(sigmas, all_sigmas)
            times = times if c.beta_schedule == "squaredcos_cap_v2" else times.round()
            return times.astype(np.int64), np.append(sigmas, end)
        # The end of the last step counts as a timestep, except where "trailing" leaves it out anyway.
        points = steps if c.timestep_spacing == "trailing" else steps + 1
        times = spaced_timesteps(c.timestep_spacing, points, c.num_train_timesteps, c.steps_offset)[:steps]
        times = times.round().astype(np.int64)
        if len(set(times)) < steps:
            raise ValueError(f"num_inference_steps={steps}: DPM-Solver needs different timesteps, and with "
                             f"timestep_spacing={c.timestep_spacing!r} two are alike; take fewer steps")
        return times, np.append(all_sigmas[times], end)

    def _move(self, now: Known, draw: Draw) -> Tensor:
        c = self.config
        known = [*self.past, now]
        outputs = [one.x0 if c.algorithm_type == "dpmsolver++" else one.eps for one in known]
        sigmas = self.sigmas[max(0, now.i - 2): now.i + 2].double()
        order = self._order(now.i, min(c.solver_order, len(known)))
        return dpm_solver_step(now.x, outputs, sigmas, order, c.solver_type, c.algorithm_type)

    def _order(self, i: int, most: int) -> int:
        """That of the step at index i."""
        c, left, few = self.config, len(self._times) - i, len(self._times) < 15
        if left == 1:
            standing = self.sigmas[-2] == self.sigmas[-1]  # Karras sigmas that end at sigma_min: a step of length 0
            euler = c.euler_at_final or c.final_sigmas_type == "zero" or (c.lower_order_final and few) or standing
            return 1 if euler else most
        return min(most, 2) if left == 2 and c.lower_order_final and few else most
