"""The eight samplers on problems with known answers, and what they refuse."""

import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minisd import schedulers
from minisd.schedulers import (
    NOISE_FIELDS,
    SAMPLERS,
    SD_SCHEDULE,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    sampler_class,
)
from minisd.schedulers.ddim import ddim_step
from minisd.schedulers.ddpm import ddpm_step
from minisd.schedulers.dpmsolver import dpm_solver_step
from minisd.schedulers.euler import euler_step
from minisd.schedulers.euler_ancestral import euler_ancestral_step
from minisd.schedulers.heun import heun_step
from minisd.schedulers.lms import lms_step
from minisd.schedulers.mixture import ADDED_NOISE, ALPHA_BAR, DPM, Mixture
from minisd.schedulers.pndm import multistep_slope, pndm_step
from minisd.schedulers.schedule import karras_sigmas, make_betas, spaced_timesteps

ALL = list(SAMPLERS.values())
RANDOM = [DDPMScheduler, EulerAncestralDiscreteScheduler]
DETERMINISTIC = [cls for cls in ALL if cls not in RANDOM]
SD = SD_SCHEDULE
KARRAS = {"use_karras_sigmas": True}

# Files that are published with the weights.
SD_1_5 = {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
          "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000,
          "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None}
SD_2_BASE = {**SD_1_5, "_diffusers_version": "0.10.0.dev0", "prediction_type": "epsilon"}
SD_2_1 = {**SD_1_5, "_class_name": "DDIMScheduler", "_diffusers_version": "0.8.0", "prediction_type": "v_prediction"}

# For normally distributed data, the ideal network has a closed form and the ODE a known solution.
MEAN, STD = 0.3, 0.5


def ideal_output(kind, x, sigma):
    """The output of a perfect network for x = alpha·x0 + (sigma·alpha)·ε, where x0 ~ N(MEAN, STD²)."""
    alpha = 1 / (sigma**2 + 1) ** 0.5
    beta = sigma * alpha
    x0 = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + beta**2) * (x - alpha * MEAN)
    eps = (x - alpha * x0) / beta
    return {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - beta * x0}[kind]


def is_plain(scheduler):
    """Whether x is parameterised as x0 + σ·ε."""
    return scheduler.init_noise_sigma != 1


def solution(scheduler, sigma, z):
    """Where the point that started at quantile z is at noise level sigma."""
    x = MEAN + z * (STD**2 + sigma**2) ** 0.5
    return x if is_plain(scheduler) else x / (sigma**2 + 1) ** 0.5


def ode_error(cls, steps, stop_at=None, kind="epsilon", **config):
    """The largest error at the last timestep (or at time stop_at) of a run that starts on the solution."""
    scheduler = cls.from_config(SD | {"steps_offset": 0, "prediction_type": kind} | config)
    scheduler.set_timesteps(steps)
    scheduler.sigmas, scheduler.alphas_cumprod = scheduler.sigmas.double(), scheduler.alphas_cumprod.double()
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    x = solution(scheduler, scheduler.sigmas[0], z)
    last = len(scheduler.timesteps) - 1 if stop_at is None else scheduler.timesteps.tolist().index(stop_at)
    for sigma, t in zip(scheduler.sigmas[:last], scheduler.timesteps):
        output = ideal_output(kind, scheduler.scale_model_input(x, t), sigma)
        x = scheduler.step(output, t, x).prev_sample
    return (x - solution(scheduler, scheduler.sigmas[last], z)).abs().max().item()


def run(scheduler, x, timesteps=None, **draws):
    """A denoising loop whose network is just some smooth function."""
    for t in scheduler.timesteps if timesteps is None else timesteps:
        output = torch.tanh(scheduler.scale_model_input(x, t) * 0.7 + 0.2)
        x = scheduler.step(output, t, x, **draws).prev_sample
    return x


def test_lms_table_of_the_course():
    scheduler = LMSDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(15)
    assert " ".join(f"{t:.4f}" for t in scheduler.timesteps.tolist()) == (
        "999.0000 927.6429 856.2857 784.9286 713.5714 642.2143 570.8571 499.5000 428.1429 356.7857 285.4286 214.0714 "
        "142.7143 71.3571 0.0000")
    assert " ".join(f"{sigma:.4f}" for sigma in scheduler.sigmas.tolist()) == (
        "14.6146 9.6826 6.6780 4.7746 3.5221 2.6666 2.0606 1.6156 1.2768 1.0097 0.7913 0.6056 0.4397 0.2780 0.0292 "
        "0.0000")


# --- the samplers are right ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(("cls", "config", "order"), [
    (EulerDiscreteScheduler, KARRAS, 1),
    (HeunDiscreteScheduler, KARRAS, 2),
    (LMSDiscreteScheduler, KARRAS, 3.75),
    (DPMSolverMultistepScheduler, KARRAS | {"solver_order": 1}, 1),
    (DPMSolverMultistepScheduler, KARRAS | {"solver_order": 2}, 2),
    (DPMSolverMultistepScheduler, KARRAS | {"solver_order": 2, "solver_type": "heun"}, 2),
    (DPMSolverMultistepScheduler, KARRAS | {"solver_order": 2, "algorithm_type": "dpmsolver",
                                            "final_sigmas_type": "sigma_min"}, 2.1),
    (DPMSolverMultistepScheduler, KARRAS | {"solver_order": 3}, 1.9),  # its first step is of order 1, and it shows
    (DDIMScheduler, {"stop_at": 500}, 1),
    (PNDMScheduler, {"stop_at": 500}, 2),  # as the paper proves
])
def test_order_of_convergence(cls, config, order, kind):
    if cls is PNDMScheduler and kind == "v_prediction":
        order = 1  # averaging v from different times, as diffusers does, costs an order
    coarse, fine = ode_error(cls, 100, kind=kind, **config), ode_error(cls, 200, kind=kind, **config)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


def test_higher_orders_err_less():
    errors = [ode_error(DPMSolverMultistepScheduler, 20, solver_order=order, **KARRAS) for order in (1, 2, 3)]
    assert errors[0] > 5 * errors[1] > 20 * errors[2]


def test_runge_kutta_steps_are_a_better_beginning():
    def error(skip):  # at the fourth timestep, t = 600, where the Runge-Kutta steps end
        return ode_error(PNDMScheduler, 10, stop_at=600, skip_prk_steps=skip)
    assert error(False) < error(True) / 4


@pytest.mark.parametrize("cls", RANDOM)
def test_random_samplers_draw_from_the_data(cls):
    scheduler = cls.from_config(SD | {"timestep_spacing": "trailing"})
    scheduler.set_timesteps(1000)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, generator=generator) * scheduler.init_noise_sigma
    for sigma, t in zip(scheduler.sigmas, scheduler.timesteps):
        output = ideal_output("epsilon", scheduler.scale_model_input(x, t), sigma)
        x = scheduler.step(output, t, x, generator).prev_sample
    assert x.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert x.std().item() == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("cls", ALL)
def test_predicted_x0_is_what_the_network_knows(cls, kind):
    """With a network that sees through the noise, every x0 is the clean picture, and the last step ends there."""
    scheduler = cls.from_config(SD | {"set_alpha_to_one": True, "prediction_type": kind})
    scheduler.set_timesteps(10)
    x0, noise = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    x = scheduler.add_noise(x0, noise, scheduler.timesteps[:1])
    for sigma, t in zip(scheduler.sigmas, scheduler.timesteps):
        alpha = 1 / (sigma**2 + 1) ** 0.5
        eps = (scheduler.scale_model_input(x, t) - alpha * x0) / (sigma * alpha)
        output = {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * alpha * x0}[kind]
        step = scheduler.step(output, t, x, torch.Generator().manual_seed(1))
        torch.testing.assert_close(step.pred_original_sample, x0, rtol=0, atol=2e-5)
        x = step.prev_sample
    if not (cls is PNDMScheduler and kind == "v_prediction"):  # see test_order_of_convergence
        torch.testing.assert_close(x, x0, rtol=0, atol=2e-5)


@pytest.mark.parametrize("config", [{"solver_type": "heun"}, {"solver_order": 3}])
def test_a_step_of_length_zero(config):
    scheduler = DPMSolverMultistepScheduler.from_config(SD | KARRAS | config, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(20)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    before = run(scheduler, x, scheduler.timesteps[:-1])
    after = scheduler.step(torch.tanh(before), scheduler.timesteps[-1], before).prev_sample
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("cls", [DDPMScheduler, DDIMScheduler, HeunDiscreteScheduler])
def test_clip_sample(cls):
    scheduler = cls.from_config(SD | {"clip_sample": True, "clip_sample_range": 0.5})
    scheduler.set_timesteps(10)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    x0 = scheduler.step(torch.zeros_like(x), scheduler.timesteps[0], x).pred_original_sample
    assert x0.abs().max() == 0.5


def test_where_x0_is_clipped_heun_follows_the_slope_towards_it():
    scheduler = HeunDiscreteScheduler.from_config(SD | {"clip_sample": True, "clip_sample_range": 0.5})
    scheduler.set_timesteps(10)
    x = fixed_noise((1, 4, 8, 8), 0) * scheduler.init_noise_sigma
    trial, x0 = scheduler.step(torch.zeros_like(x), scheduler.timesteps[0], x)
    torch.testing.assert_close(trial, x0 + scheduler.sigmas[1] / scheduler.sigmas[0] * (x - x0))


def test_no_noise_is_added_at_time_0():
    scheduler = DDPMScheduler.from_config(SD | {"variance_type": "fixed_large", "steps_offset": 0})
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[-1] == 0
    x = fixed_noise((1, 4, 8, 8), 0)
    prev, x0 = scheduler.step(x / 2, scheduler.timesteps[-1], x)
    torch.testing.assert_close(prev, x0)


# --- the functions ------------------------------------------------------------------------------------------------

def network(x, sigma):
    """Some smooth noise prediction, for an x = x0 + σ·ε."""
    return torch.tanh(x / (sigma**2 + 1) ** 0.5 * 0.7 + 0.2)


def fixed_noise(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def euler_loop(x, sigmas):
    for sigma, sigma_next in pairwise(sigmas):
        x = euler_step(x, network(x, sigma), sigma, sigma_next)
    return x


def ancestral_loop(x, sigmas):
    generator = torch.Generator().manual_seed(1)
    for sigma, sigma_next in pairwise(sigmas):
        noise = torch.randn(x.shape, generator=generator)
        x = euler_ancestral_step(x, network(x, sigma), sigma, sigma_next, noise)
    return x


def heun_loop(x, sigmas):
    for sigma, sigma_next in pairwise(torch.unique_consecutive(sigmas)):  # all but the first and last come twice
        eps = network(x, sigma)
        trial = euler_step(x, eps, sigma, sigma_next)
        x = trial if sigma_next == 0 else heun_step(x, eps, network(trial, sigma_next), sigma, sigma_next)
    return x


def lms_loop(x, sigmas):
    slopes = []
    for i, sigma in enumerate(sigmas[:-1]):
        slopes = [*slopes, network(x, sigma)][-4:]
        x = lms_step(x, slopes, sigmas[max(0, i - 3): i + 2].tolist())
    return x


@pytest.mark.parametrize(("name", "loop"), [("euler", euler_loop), ("euler-ancestral", ancestral_loop),
                                            ("heun", heun_loop), ("lms", lms_loop)])
def test_loops_of_the_functions_over_sigma(name, loop):
    scheduler = SAMPLERS[name].from_config(SD)
    scheduler.set_timesteps(7)
    x = fixed_noise((1, 4, 4, 4), 0) * scheduler.init_noise_sigma
    torch.testing.assert_close(run(scheduler, x, generator=torch.Generator().manual_seed(1)), loop(x, scheduler.sigmas))


def vp_network(x):
    return torch.tanh(x * 0.7 + 0.2)


def clean(x, eps, alpha_bar):
    return (x - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5


def ddim_loop(x, alpha_bars):
    for alpha_bar, alpha_bar_next in pairwise(alpha_bars):
        eps = vp_network(x)
        x = ddim_step(clean(x, eps, alpha_bar), eps, alpha_bar, alpha_bar_next)
    return x


def ddpm_loop(x, alpha_bars):
    generator, end = torch.Generator().manual_seed(1), len(alpha_bars) - 2
    for i, (alpha_bar, alpha_bar_next) in enumerate(pairwise(alpha_bars)):
        noise = torch.randn(x.shape, generator=generator) if i < end else None
        x = ddpm_step(x, clean(x, vp_network(x), alpha_bar), alpha_bar, alpha_bar_next, noise)
    return x


def pndm_loop(x, alpha_bars):
    """PLMS: the first step twice, the second time with the mean of the slopes at its two ends."""
    slopes = [vp_network(x)]
    trial = pndm_step(x, slopes[0], *alpha_bars[:2])
    x = pndm_step(x, (slopes[0] + vp_network(trial)) / 2, *alpha_bars[:2])
    for alpha_bar, alpha_bar_next in pairwise(alpha_bars[1:]):
        slopes = [*slopes, vp_network(x)][-4:]
        x = pndm_step(x, multistep_slope(slopes), alpha_bar, alpha_bar_next)
    return x


def dpm_loop(x, alpha_bars):
    """2M, with a first step of order 1 and, if there are few steps, a last one of order 1, too."""
    sigmas, known = ((1 - alpha_bars) / alpha_bars).sqrt().double(), []
    for i, alpha_bar in enumerate(alpha_bars[:-1]):
        known = [*known, clean(x, vp_network(x), alpha_bar)][-2:]
        order = 2 if 0 < i < len(alpha_bars) - 2 else 1
        x = dpm_solver_step(x, known, sigmas[max(0, i - 1): i + 2], order)
    return x


@pytest.mark.parametrize(("name", "loop"), [("ddim", ddim_loop), ("ddpm", ddpm_loop), ("pndm", pndm_loop),
                                            ("dpm++", dpm_loop)])
def test_loops_of_the_functions_over_alpha_bar(name, loop):
    scheduler = SAMPLERS[name].from_config(SD | {"set_alpha_to_one": True, "steps_offset": 0})
    scheduler.set_timesteps(8)
    x = fixed_noise((1, 4, 4, 4), 0)
    times = torch.unique(scheduler.timesteps).flip(0)
    alpha_bars = torch.cat([scheduler.alphas_cumprod[times], torch.ones(1)])
    result = run(scheduler, x, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(result, loop(x, alpha_bars), rtol=1e-5, atol=1e-5)


def test_ddim_with_all_its_noise_is_ddpm():
    x, eps, noise = (fixed_noise((2, 4, 4, 4), seed) for seed in range(3))
    now, then = torch.tensor(0.3), torch.tensor(0.5)
    x0 = clean(x, eps, now)
    torch.testing.assert_close(ddim_step(x0, eps, now, then, 1.0, noise), ddpm_step(x, x0, now, then, noise))
    wider = ddpm_step(x, x0, now, then, noise, "fixed_large") - ddpm_step(x, x0, now, then, None)
    torch.testing.assert_close(wider, (1 - now / then).sqrt() * noise)


# --- parameterisations of x ---------------------------------------------------------------------------------------

FLOW = Mixture(lambda t: (1 - t, t))  # x = (1 - t)·x0 + t·ε, which no sampler here has yet


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("mixture", [ALPHA_BAR, ADDED_NOISE, DPM, FLOW])
def test_mixtures_are_taken_apart_again(mixture, kind):
    if mixture is FLOW and kind == "v_prediction":
        return  # v is of a mixture with a² + b² = 1
    x0, noise = fixed_noise((2, 3, 4, 8, 8), 0)
    level = torch.tensor(0.4)
    a, b = mixture.weights(level)
    x = mixture.add_noise(x0, noise, level[None])
    torch.testing.assert_close(x, a * x0 + b * noise)
    norm = (a**2 + b**2) ** 0.5
    if mixture is not FLOW:
        torch.testing.assert_close(mixture.network_input(x, level), x / norm)
    output = {"epsilon": noise, "sample": x0, "v_prediction": (a * noise - b * x0) / norm}[kind]
    for part, expected in zip(mixture.predictions(kind, output, x, level), (x0, noise)):
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5)


# --- noise --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cls", ALL)
def test_add_noise_and_velocity(cls):
    scheduler = cls.from_config(SD)
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([0, 500, 999])
    x = scheduler.add_noise(x0, noise, t)
    alpha = (scheduler.alphas_cumprod[t] ** 0.5)[:, None, None, None]
    sigma = (1 - alpha**2) ** 0.5
    torch.testing.assert_close(alpha * x if is_plain(scheduler) else x, alpha * x0 + sigma * noise)
    torch.testing.assert_close(scheduler.get_velocity(x0, noise, t), alpha * noise - sigma * x0)
    torch.testing.assert_close(scheduler.add_noise(x0, noise, 500)[1], x[1])


@pytest.mark.parametrize("cls", RANDOM)
def test_generators(cls):
    scheduler = cls.from_config(SD)
    x = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))

    def result(x, generator):
        scheduler.set_timesteps(5)
        return run(scheduler, x, generator=generator)

    def seeded(k):
        return torch.Generator().manual_seed(k)

    together = result(x, [seeded(k) for k in range(3)])
    assert torch.equal(result(x, seeded(7)), result(x, seeded(7)))
    assert not torch.equal(result(x, seeded(7)), result(x, seeded(8)))
    for k in range(3):  # item k of a batch is what its seed gives on its own
        torch.testing.assert_close(result(x[k: k + 1], [seeded(k)])[0], together[k])
    with pytest.raises(ValueError, match="a list of 2 for a batch of 3"):
        result(x, [seeded(0), seeded(1)])


def test_ddim_eta():
    scheduler = DDIMScheduler.from_config(SD)
    scheduler.set_timesteps(10)
    x, t = torch.ones(1, 4, 4, 4), scheduler.timesteps[0]
    steps = [scheduler.step(x / 2, t, x, torch.Generator().manual_seed(seed), eta=eta).prev_sample
             for seed, eta in ((0, 0.0), (1, 0.0), (0, 1.0), (1, 1.0))]
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[2], steps[3])
    with pytest.raises(ValueError, match="eta=2"):
        scheduler.step(x, t, x, eta=2)


# --- going through the timesteps ----------------------------------------------------------------------------------

@pytest.mark.parametrize("cls", DETERMINISTIC)
def test_nothing_is_left_of_an_earlier_run(cls):
    scheduler = cls.from_config(SD)
    scheduler.set_timesteps(8)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma
    first = run(scheduler, x)
    assert torch.equal(run(scheduler, x), first), "a second loop"
    run(scheduler, x, scheduler.timesteps[:5])
    assert torch.equal(run(scheduler, x), first), "a loop after one that was broken off"
    run(scheduler, x, scheduler.timesteps[:5])
    scheduler.set_timesteps(8)
    assert torch.equal(run(scheduler, x), first), "a loop after set_timesteps"


@pytest.mark.parametrize("cls", ALL)
def test_a_loop_never_looks_at_a_timestep_on_another_device(cls):
    """Tensors on "meta" have no values: reading one is an error here, where on a GPU it would wait."""
    scheduler = cls.from_config(SD)
    x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))

    def result(device):
        scheduler.set_timesteps(8, device=device)
        assert scheduler.timesteps.device.type == device
        start = 2 * scheduler.order
        scheduler.set_begin_index(start)
        return run(scheduler, x, scheduler.timesteps[start:], generator=torch.Generator().manual_seed(1))

    assert torch.equal(result("meta"), result("cpu"))


@pytest.mark.parametrize("cls", [HeunDiscreteScheduler, PNDMScheduler])
def test_of_two_equal_timesteps_a_run_begins_at_the_second(cls):
    """The first belongs to the step before. Nothing says where the run begins, so t must be looked up."""
    scheduler = cls.from_config(SD)
    scheduler.set_timesteps(10)
    once, twice = scheduler.timesteps[0], scheduler.timesteps[1]
    assert scheduler.timesteps[2] == twice
    x = fixed_noise((1, 4, 4, 4), 0)
    scheduler.step(x / 2, twice, x)
    assert scheduler.step_index == 3
    scheduler.step(x / 2, once, x)
    assert scheduler.step_index == 1


@pytest.mark.parametrize(("steps", "lower"), [(14, True), (15, False)])
@pytest.mark.parametrize("order", [2, 3])
def test_lower_orders_at_the_end_are_for_fewer_than_15_steps(steps, lower, order):
    """As in diffusers. What matters is how many steps there are, not where the run begins."""
    def result(lower_order_final):
        scheduler = DPMSolverMultistepScheduler.from_config(
            SD | {"solver_order": order, "lower_order_final": lower_order_final, "final_sigmas_type": "sigma_min"})
        scheduler.set_timesteps(steps)
        return run(scheduler, fixed_noise((1, 4, 4, 4), 0))

    assert torch.equal(result(True), result(False)) is not lower


@pytest.mark.parametrize("cls", ALL)
def test_half_precision_is_only_rounded_at_the_end(cls):
    scheduler = cls.from_config(SD)
    scheduler.set_timesteps(10)
    t, x = scheduler.timesteps[0], torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    output = x / 2
    half = scheduler.step(output, t, x, torch.Generator().manual_seed(0)).prev_sample
    full = scheduler.step(output.float(), t, x.float(), torch.Generator().manual_seed(0)).prev_sample
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, full.bfloat16())


@given(steps=st.integers(1, 1000), spacing=st.sampled_from(["leading", "linspace", "trailing"]),
       offset=st.integers(0, 3))
@settings(deadline=None, max_examples=200)
def test_timesteps_descend_within_the_training_range(steps, spacing, offset):
    if spacing == "leading" and (steps - 1) * (1000 // steps) + offset > 999:
        with pytest.raises(ValueError, match="steps_offset"):
            spaced_timesteps(spacing, steps, 1000, offset)
        return
    times = spaced_timesteps(spacing, steps, 1000, offset)
    assert len(times) == steps
    assert times.min() >= 0
    assert times.max() <= 999
    assert (times[1:] < times[:-1]).all()


@given(steps=st.integers(2, 200), low=st.floats(0.001, 1), ratio=st.floats(1.5, 1e4))
@settings(deadline=None, max_examples=100)
def test_karras_sigmas(steps, low, ratio):
    sigmas = karras_sigmas(low * ratio, low, steps)
    assert sigmas[0] == pytest.approx(low * ratio)
    assert sigmas[-1] == pytest.approx(low)
    assert (sigmas[1:] < sigmas[:-1]).all()


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_betas(schedule):
    betas = make_betas(schedule, 0.00085, 0.012, 1000)
    assert betas.shape == (1000,)
    assert (betas > 0).all()
    assert (betas < 1).all()
    assert (betas[1:] >= betas[:-1]).all()


def test_zero_terminal_snr_leaves_only_noise():
    config = {**SD_2_1, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    assert DDIMScheduler.from_config(config).alphas_cumprod[-1] == 0
    euler = EulerDiscreteScheduler.from_config(config)
    euler.set_timesteps(10)
    assert euler.init_noise_sigma == pytest.approx(4096)


# --- configs ------------------------------------------------------------------------------------------------------

def test_the_table_of_samplers():
    assert [cls.__name__ for cls in ALL] == list(dict.fromkeys(cls.__name__ for cls in ALL))
    assert sorted(cls.__name__ for cls in ALL) == schedulers.__all__
    for short, cls in SAMPLERS.items():
        assert sampler_class(short) is sampler_class(cls.__name__) is cls
        assert set(NOISE_FIELDS) <= set(cls.DEFAULTS)
        assert SD_SCHEDULE.items() <= cls.from_config(SD_SCHEDULE).config.items()
    with pytest.raises(ValueError, match=r"'unipc' is not known; minisd has ddpm \(DDPMScheduler\), ddim"):
        sampler_class("unipc")


def test_published_configs():
    for config, kind in ((SD_1_5, "epsilon"), (SD_2_BASE, "epsilon"), (SD_2_1, "v_prediction")):
        scheduler = sampler_class(config["_class_name"]).from_config(config)
        scheduler.set_timesteps(50)
        assert scheduler.config.prediction_type == kind
        assert scheduler.config.timestep_spacing == "leading"
        assert scheduler.timesteps[0] == 981
        assert scheduler.alphas_cumprod[-1].item() == pytest.approx(0.00466, abs=1e-5)
    assert PNDMScheduler.from_config(SD_1_5).config.skip_prk_steps is True


@pytest.mark.parametrize("cls", ALL)
def test_folder_round_trip(cls, tmp_path):
    scheduler = cls.from_config(SD | {"prediction_type": "v_prediction"})
    scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == cls.__name__
    again = cls.from_config(tmp_path)
    assert {k: v for k, v in again.config.items() if k != "_use_default_values"} == saved
    assert torch.equal(again.alphas_cumprod, scheduler.alphas_cumprod)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("other", ALL)
def test_samplers_can_be_swapped(cls, other):
    swapped = cls.from_config(other.from_config(SD_1_5).config)
    assert swapped.config.beta_schedule == "scaled_linear"
    assert swapped.config.timestep_spacing == cls.DEFAULTS["timestep_spacing"], "a default is not passed on"
    assert cls.from_config(swapped.config, timestep_spacing="trailing").config.timestep_spacing == "trailing"


@pytest.mark.parametrize(("config", "message"), [
    ({"betas_start": 0.1}, "unknown field 'betas_start'"),
    ({"skip_prk_steps": True}, "belongs to another sampler, and from_config would keep it"),
    ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid' is not supported; it must be 'linear' or"),
    ({"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction'"),
    ({"timestep_spacing": "even"}, "timestep_spacing='even'"),
    ({"thresholding": True}, "thresholding=True is not supported; it must be False"),
    ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
    ({"steps_offset": -1}, "steps_offset=-1"),
    ({"beta_start": 0.0}, "beta_start=0.0"),
    ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 values"),
])
def test_bad_config(config, message):
    with pytest.raises(ValueError, match=message):
        DDIMScheduler(**config)
    if "another" not in message:
        with pytest.raises(ValueError, match=message):
            DDIMScheduler.from_config(config)


def test_more_bad_configs(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"scheduler_config\.json"):
        DDIMScheduler.from_config(tmp_path)
    with pytest.raises(ValueError, match="needs final_sigmas_type='sigma_min'"):
        DPMSolverMultistepScheduler(algorithm_type="dpmsolver")
    with pytest.raises(AttributeError, match="no field 'eta'"):
        _ = DDIMScheduler().config.eta


def test_what_is_another_samplers_is_kept():
    scheduler = DDIMScheduler.from_config({"skip_prk_steps": True, "solver_p": None, "tensor_format": "pt"})
    assert (scheduler.config.skip_prk_steps, scheduler.config.tensor_format) == (True, "pt")
    with pytest.warns(UserWarning, match="DDIMScheduler has no skip_prk_steps: kept for another") as caught:
        scheduler = DDIMScheduler.from_config(scheduler.config, skip_prk_steps=False, beta_end=0.012)
    assert caught[0].filename == __file__
    assert PNDMScheduler.from_config(scheduler.config).config.skip_prk_steps is False
    with pytest.raises(ValueError, match="unknown field 'skip_steps'"):
        DDIMScheduler.from_config(scheduler.config, skip_steps=False)


def test_what_prediction_type_was_called_in_2022():
    for said, expected in (({"predict_epsilon": True}, "epsilon"), ({"predict_epsilon": False}, "sample"),
                           ({"predict_epsilon": True, "prediction_type": "v_prediction"}, "v_prediction"),
                           ({"predict_epsilon": False, "prediction_type": "sample"}, "sample")):
        scheduler = DDPMScheduler.from_config({"timestep_values": None, **said})
        assert scheduler.config.prediction_type == expected
        assert DDIMScheduler.from_config(scheduler.config).config.prediction_type == expected
    with pytest.raises(ValueError, match="predict_epsilon=False and prediction_type='epsilon', which contradict"):
        DDPMScheduler.from_config({"predict_epsilon": False, "prediction_type": "epsilon"})


@pytest.mark.parametrize("cls", ALL)
def test_bad_calls(cls):
    scheduler = cls.from_config(SD)
    x = torch.zeros(2, 4, 4, 4)
    with pytest.raises(ValueError, match="call set_timesteps"):
        scheduler.step(x, 999, x)
    for steps in (0, -1, 1001, 2000, 2.5, None):
        with pytest.raises(ValueError, match="whole number from 1 to 1000"):
            scheduler.set_timesteps(steps)
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match=r"t=998\.5 is not one of the timesteps"):
        scheduler.step(x, 998.5, x)
    with pytest.raises(ValueError, match=r"model_output has shape \(2, 8, 4, 4\)"):
        scheduler.step(torch.zeros(2, 8, 4, 4), scheduler.timesteps[0], x)
    with pytest.raises(ValueError, match="begin_index=99"):
        scheduler.set_begin_index(99)
    with pytest.raises(ValueError, match=r"noise has shape \(1, 4, 4, 4\)"):
        scheduler.add_noise(x, x[:1], scheduler.timesteps[0])
    with pytest.raises(ValueError, match="3 times for a batch of 2"):
        scheduler.add_noise(x, x, scheduler.timesteps[:3])
    with pytest.raises(ValueError, match="1000"):
        scheduler.add_noise(x, x, torch.tensor([1000]))


def test_beginnings_that_make_no_sense():
    x = torch.zeros(1, 4, 4, 4)
    heun = HeunDiscreteScheduler.from_config(SD)
    heun.set_timesteps(10)
    heun.set_begin_index(3)
    with pytest.raises(ValueError, match="begin at 4"):
        heun.step(x, heun.timesteps[3], x)
    pndm = PNDMScheduler.from_config(SD | {"skip_prk_steps": False})
    with pytest.raises(ValueError, match="at least 4"):
        pndm.set_timesteps(3)
    pndm.set_timesteps(10)
    pndm.set_begin_index(5)
    with pytest.raises(ValueError, match="cannot begin in the middle"):
        pndm.step(x, pndm.timesteps[5], x)
    solver = DPMSolverMultistepScheduler.from_config(SD)
    with pytest.raises(ValueError, match="two are equal"):
        solver.set_timesteps(1000)


def test_fields_of_other_samplers_survive_swaps():
    """What a published config says for another sampler is still there after any number of swaps."""
    published = {"_class_name": "PNDMScheduler", "clip_sample": False, "skip_prk_steps": True, "beta_end": 0.012}
    first = PNDMScheduler.from_config(published)
    by_way_of = EulerDiscreteScheduler.from_config(first.config)
    assert DDIMScheduler.from_config(by_way_of.config).config.clip_sample is False
    assert PNDMScheduler.from_config(by_way_of.config).config.skip_prk_steps is True
