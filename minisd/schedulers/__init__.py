"""The eight samplers. `schedule.py` has the noise schedule, `base.py` what they share, the rest one sampler each."""

from minisd.schedulers.ddim import DDIMScheduler
from minisd.schedulers.ddpm import DDPMScheduler
from minisd.schedulers.dpmsolver import DPMSolverMultistepScheduler
from minisd.schedulers.euler import EulerDiscreteScheduler
from minisd.schedulers.euler_ancestral import EulerAncestralDiscreteScheduler
from minisd.schedulers.heun import HeunDiscreteScheduler
from minisd.schedulers.lms import LMSDiscreteScheduler
from minisd.schedulers.pndm import PNDMScheduler

__all__ = [
    "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler",
]
