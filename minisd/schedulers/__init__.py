"""The eight samplers, one file each, and the one table of them.

`schedule.py` has the noise schedule, `mixture.py` the ways to write a noisy x, `base.py` what the samplers share.
"""

from minisd.schedulers.base import Scheduler
from minisd.schedulers.config import FIELDS as FIELDS
from minisd.schedulers.ddim import DDIMScheduler
from minisd.schedulers.ddpm import DDPMScheduler
from minisd.schedulers.dpmsolver import DPMSolverMultistepScheduler
from minisd.schedulers.euler import EulerDiscreteScheduler
from minisd.schedulers.euler_ancestral import EulerAncestralDiscreteScheduler
from minisd.schedulers.heun import HeunDiscreteScheduler
from minisd.schedulers.lms import LMSDiscreteScheduler
from minisd.schedulers.pndm import PNDMScheduler

# Short names, in the order of the course. The long ones are those of diffusers and of published configs.
SAMPLERS: dict[str, type[Scheduler]] = {
    "ddpm": DDPMScheduler, "ddim": DDIMScheduler, "pndm": PNDMScheduler, "lms": LMSDiscreteScheduler,
    "euler": EulerDiscreteScheduler, "euler-ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler, "dpm++": DPMSolverMultistepScheduler,
}
# What every Stable Diffusion was trained with, for `from_config`, which takes what a sampler has a field for.
SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
               "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
# The fields of a noise schedule, and what the network says of it: another sampler changes nothing of that.
NOISE_FIELDS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
# How some solvers move, in words of their own.
SOLVER_FIELDS = ("algorithm_type", "solver_type")

__all__ = sorted(sampler.__name__ for sampler in SAMPLERS.values())  # the classes


def sampler_class(name: str) -> type[Scheduler]:
    """A sampler by its short name ("euler") or its class's ("EulerDiscreteScheduler").

    Raises:
        ValueError: neither of these.
    """
    for short, sampler in SAMPLERS.items():
        if name in (short, sampler.__name__):
            return sampler
    raise ValueError(f"scheduler {name!r} is not known; minisd has "
                     + ", ".join(f"{short} ({sampler.__name__})" for short, sampler in SAMPLERS.items()))
