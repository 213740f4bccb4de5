"""The noise schedule: how much noise there is at each training time, and which times a sampler visits.

Training knows T noise levels (T = 1000). At time t a clean x0 is mixed with standard normal noise ε:

    x_t = sqrt(ᾱ_t)·x0 + sqrt(1 - ᾱ_t)·ε        ᾱ_t = (1 - β_0)(1 - β_1)…(1 - β_t)

(Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equation 4). Dividing by sqrt(ᾱ_t) gives the other
parameterisation, x0 + σ_t·ε with σ_t = sqrt((1 - ᾱ_t)/ᾱ_t), in which noise is simply added (Karras et al. 2022,
"Elucidating the Design Space of Diffusion-Based Generative Models").

Functions only; the samplers combine them.
"""

import numpy as np
import torch
from torch import Tensor


def noise_tables(config: dict, finite: bool) -> tuple[Tensor, Tensor]:
    """β_t and ᾱ_t at all training times, float32, (T,).

    Args:
        config: the sampler's fields; not every sampler has `rescale_betas_zero_snr`.
        finite: whether the last σ must stay finite (4096) with `rescale_betas_zero_snr`, because the sampler computes
            with σ.
    """
    if config["trained_betas"] is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
    else:
        betas = make_betas(*(config[f] for f in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")))
    zero_snr = config.get("rescale_betas_zero_snr", False)
    if zero_snr:
        betas = zero_terminal_snr(betas)
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    if zero_snr and finite:
        alphas_cumprod[-1] = 2**-24
    return betas, alphas_cumprod


def make_betas(schedule: str, start: float, end: float, steps: int) -> Tensor:
    """β_0 … β_{T-1}, float32, (T,).

    "linear" is DDPM's schedule; "scaled_linear", linear in sqrt(β), is Stable Diffusion's; "squaredcos_cap_v2" is the
    cosine schedule of Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation 17.
    """
    if schedule == "linear":
        return torch.linspace(start, end, steps)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps) ** 2
    alphas_cumprod = np.cos((np.linspace(0, 1, steps + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
    return torch.from_numpy(np.minimum(1 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0.999)).float()


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Rescale a schedule so that nothing but noise is left at its end (Lin et al. 2023, "Common Diffusion Noise
    Schedules and Sample Steps are Flawed", algorithm 1)."""
    roots = torch.cumprod(1 - betas, dim=0).sqrt()
    roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))  # the last becomes 0, the first stays
    alphas_cumprod = roots**2
    return 1 - torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])


def spaced_timesteps(spacing: str, steps: int, train_steps: int, offset: int) -> np.ndarray:
    """The times that a sampler visits, from noisy to clean, float64, (steps,); Lin et al. 2023, table 2.

    "linspace" includes both ends, 0 and T - 1, and is not rounded. "leading" includes 0 but not T - 1; then all times
    are raised by `offset`. "trailing" includes T - 1 but not 0. A single "linspace" step is at 0, as in diffusers.

    Raises:
        ValueError: the first time is after the end of training.
    """
    if spacing == "linspace":
        return np.linspace(0, train_steps - 1, steps)[::-1]
    if spacing == "trailing":
        return np.arange(train_steps, 0, -train_steps / steps)[:steps].round() - 1  # arange may give one too many
    times = np.arange(steps)[::-1] * float(train_steps // steps) + offset
    if times[0] >= train_steps:
        raise ValueError(f"num_inference_steps={steps} with steps_offset={offset} starts at time {times[0]:.0f}, but "
                         f"training ends at {train_steps - 1}; use fewer steps, or timestep_spacing='trailing'")
    return times


def plan_integer_times(config: dict, steps: int, all_sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A run over integer training times: the times, int64, (steps,), and σ at each of them plus a final 0."""
    times = spaced_timesteps(config["timestep_spacing"], steps, config["num_train_timesteps"], config["steps_offset"])
    times = times.round().astype(np.int64)
    return times, np.append(all_sigmas[times], 0.0)


def plan_fractional_times(config: dict, steps: int, all_sigmas: np.ndarray, karras: bool = False,
                          final_sigma: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A run whose times may fall between two training times: the times, float32, (steps,), and σ at each of them plus
    `final_sigma`.

    Args:
        all_sigmas: σ at every training time, the cleanest first.
        karras: keep the first and the last noise level (see `karras_range`), but space those in between as Karras et
            al. do.
    """
    times = spaced_timesteps(config["timestep_spacing"], steps, config["num_train_timesteps"], config["steps_offset"])
    times = times.astype(np.float32)
    sigmas = np.interp(times, np.arange(len(all_sigmas)), all_sigmas)
    if karras:
        sigmas = karras_sigmas(*karras_range(config, sigmas[0], sigmas[-1]), steps)
        times = times_of_sigmas(sigmas, all_sigmas).astype(np.float32)
    return times, np.append(sigmas, final_sigma)


def karras_range(config: dict, sigma_max: float, sigma_min: float) -> tuple[float, float]:
    """The first and last noise level: those given, unless the config sets `sigma_max` and `sigma_min`. As in diffusers,
    these count here even for a sampler that has no such fields, if another one's config brought them."""
    ends = config.get("sigma_max"), config.get("sigma_min")
    return sigma_max if ends[0] is None else ends[0], sigma_min if ends[1] is None else ends[1]


def karras_sigmas(sigma_max: float, sigma_min: float, steps: int, rho: float = 7.0) -> np.ndarray:
    """Noise levels that lie closer together where there is little noise, (steps,); Karras et al. 2022, equation 5."""
    ramp, sigma_max, sigma_min = np.linspace(0, 1, steps), float(sigma_max), float(sigma_min)  # roots in float64
    return (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


def times_of_sigmas(sigmas: np.ndarray, all_sigmas: np.ndarray) -> np.ndarray:
    """The (fractional) training times at which σ has these values, interpolated linearly in log σ."""
    return np.interp(np.log(sigmas), np.log(all_sigmas), np.arange(len(all_sigmas)))
