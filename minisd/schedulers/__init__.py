"""The nine samplers, one file each, and the table that lists them.

`base.py` has what all samplers share, `schedule.py` the noise schedule, `mixture.py` the parameterisations of a noisy
x, and `config.py` the fields of a scheduler_config.json.
"""

from minisd.messages import quoted
from minisd.schedulers.base import Scheduler
from minisd.schedulers.config import FIELDS as FIELDS
from minisd.schedulers.ddim import DDIMScheduler
from minisd.schedulers.ddpm import DDPMScheduler
from minisd.schedulers.dpmsolver import DPMSolverMultistepScheduler
from minisd.schedulers.euler import EulerDiscreteScheduler
from minisd.schedulers.euler_ancestral import EulerAncestralDiscreteScheduler
from minisd.schedulers.heun import HeunDiscreteScheduler
from minisd.schedulers.lcm import LCMScheduler
from minisd.schedulers.lms import LMSDiscreteScheduler
from minisd.schedulers.pndm import PNDMScheduler

# By short name, in the order of the course. The classes have the names that diffusers and published configs use.
SAMPLERS: dict[str, type[Scheduler]] = {
    "ddpm": DDPMScheduler, "ddim": DDIMScheduler, "pndm": PNDMScheduler, "lms": LMSDiscreteScheduler,
    "euler": EulerDiscreteScheduler, "euler-ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler, "dpm++": DPMSolverMultistepScheduler,
    "lcm": LCMScheduler,
}
# Those that need a network distilled for them, which the mini models are not.
DISTILLED = ("lcm",)
# What every Stable Diffusion was trained with. Give it to `from_config`: each sampler uses the fields that it has.
SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
               "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
# The noise schedule and what the network predicts: these stay when a pipeline's sampler is swapped.
NOISE_FIELDS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
# How some solvers move, in words of their own.
SOLVER_FIELDS = ("algorithm_type", "solver_type")

__all__ = sorted(sampler.__name__ for sampler in SAMPLERS.values())  # the classes


def sampler_class(name: str) -> type[Scheduler]:
    """A sampler by its short name ("euler") or its class name ("EulerDiscreteScheduler").

    Raises:
        ValueError: no sampler has this name.
    """
    for short, sampler in SAMPLERS.items():
        if name in (short, sampler.__name__):
            return sampler
    raise ValueError(f"scheduler {quoted(name)} is not known; minisd has "
                     + ", ".join(f"{short} ({sampler.__name__})" for short, sampler in SAMPLERS.items()))
