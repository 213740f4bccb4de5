"""The eight samplers against those of diffusers: tables, single steps, whole runs, and inside its pipelines."""

import inspect
import json
from functools import cache

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minisd import schedulers
from tests.tiny import quietly

NAMES = schedulers.__all__
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
      "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True}
RTOL = 1e-5

# diffusers' own warnings: it deprecates "dpmsolver", which published folders still contain, and lags behind NumPy.
pytestmark = [pytest.mark.filterwarnings("ignore:.*algorithm_types dpmsolver.*:FutureWarning"),
              pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]


def pair(name, **config):
    """minisd's scheduler and diffusers', made from the same config, without fields that this sampler lacks."""
    ours = getattr(schedulers, name)
    config = {field: value for field, value in config.items() if field in ours.DEFAULTS}
    return ours(**config), getattr(diffusers, name)(**config)


def trace(scheduler, steps, begin=0, dtype=torch.float32, **options):
    """All states and x0 predictions of a run with some smooth network, starting at step number `begin`."""
    scheduler.set_timesteps(steps)
    for table in ("sigmas", "alphas_cumprod", "final_alpha_cumprod"):  # the same values, but in double arithmetic
        if hasattr(scheduler, table) and dtype == torch.float64:
            setattr(scheduler, table, getattr(scheduler, table).double())
    x, noise, weight = torch.randn(3, 2, 3, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0)).unbind()
    begin *= scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    if begin:
        x = scheduler.add_noise(x, noise, scheduler.timesteps[begin: begin + 1].repeat(2))
    else:
        x = x * scheduler.init_noise_sigma
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(1)
    states, predictions = [x], []
    for t in scheduler.timesteps[begin:]:
        output = torch.tanh(weight * scheduler.scale_model_input(x, t) + t / 1000)
        result = scheduler.step(output, t, x, **options)
        x = result.prev_sample
        states.append(x)
        predictions.append(getattr(result, "pred_original_sample", None))
    return states, predictions


def assert_same_run(ours, theirs, *args, rtol=RTOL, **options):
    mine, my_x0 = trace(ours, *args, **options)
    reference, their_x0 = trace(theirs, *args, **options)
    assert ours.timesteps.tolist() == pytest.approx(theirs.timesteps.tolist(), rel=1e-6)
    assert len(mine) == len(reference)
    for i, (a, b) in enumerate(zip(mine + my_x0, reference + their_x0)):
        if b is not None:  # diffusers' PNDM and DPM-Solver do not return x0
            error = ((a - b).abs().max() / b.abs().max()).item()
            assert error <= rtol, f"{error:.1e} at step {i}"


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_those_of_diffusers(name):
    theirs = {k: v for k, v in getattr(diffusers, name)().config.items() if not k.startswith("_")}
    assert theirs == getattr(schedulers, name).DEFAULTS


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "trained", "zero SNR"])
def test_tables(name, schedule):
    config = {"trained": {"trained_betas": torch.linspace(0.001, 0.03, 1000).tolist()},
              "zero SNR": SD | {"rescale_betas_zero_snr": True}}.get(schedule, {"beta_schedule": schedule})
    ours, theirs = pair(name, **config)
    torch.testing.assert_close(ours.betas, theirs.betas, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_timesteps_for_every_number_of_steps(name, spacing):
    ours, theirs = pair(name, **SD, timestep_spacing=spacing)
    for steps in [*range(1, 120), 125, 142, 199, 200, 250, 333, 499, 500, 666, 750]:
        ours.set_timesteps(steps)
        theirs.set_timesteps(steps)
        if -1 in theirs.timesteps:  # rounding gives diffusers one timestep too many, as for 61 trailing ones
            assert torch.equal(ours.timesteps, theirs.timesteps[theirs.timesteps >= 0])
            continue
        assert ours.timesteps.dtype == theirs.timesteps.dtype
        assert torch.equal(ours.timesteps, theirs.timesteps), steps
        if hasattr(theirs, "sigmas"):
            torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=2e-7, atol=0)
            assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", NAMES)
def test_runs(name, spacing, prediction_type, dtype):
    for steps in (1, 2, 3, 5, 10, 20, 50):
        ours, theirs = pair(name, **SD, timestep_spacing=spacing, prediction_type=prediction_type)
        # diffusers' Euler and DPM-Solver go through float32 in between, and its DDPM adds a variance of 1e-20
        rtol = {"DDPMScheduler": 1e-9}.get(name, 1e-12) if dtype == torch.float64 else RTOL
        if name.startswith(("Euler", "DPM")):
            rtol = RTOL / 10 if dtype == torch.float64 else RTOL
        assert_same_run(ours, theirs, steps, dtype=dtype, rtol=rtol)


@pytest.mark.parametrize("name", NAMES)
@given(steps=st.integers(1, 60), spacing=st.sampled_from(["leading", "linspace", "trailing"]),
       schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]), offset=st.integers(0, 2),
       prediction_type=st.sampled_from(["epsilon", "v_prediction", "sample"]), fraction=st.floats(0, 1),
       flags=st.fixed_dictionaries({field: st.booleans() for field in (
           "clip_sample", "set_alpha_to_one", "skip_prk_steps", "use_karras_sigmas", "lower_order_final",
           "euler_at_final")}),
       solver_order=st.integers(1, 3), solver_type=st.sampled_from(["midpoint", "heun"]),
       algorithm=st.sampled_from([("dpmsolver++", "zero"), ("dpmsolver++", "sigma_min"), ("dpmsolver", "sigma_min")]),
       variance_type=st.sampled_from(["fixed_small", "fixed_large"]), clip_sample_range=st.sampled_from([1.0, 0.5]))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_any_config(name, steps, spacing, schedule, offset, prediction_type, fraction, flags, solver_order, solver_type,
                    algorithm, variance_type, clip_sample_range):
    if prediction_type == "sample" and name in ("PNDMScheduler", "EulerAncestralDiscreteScheduler"):
        prediction_type = "epsilon"  # diffusers does not have it
    if name.startswith("DPM") and schedule == "squaredcos_cap_v2":  # timesteps are truncated: is it 998.99… or 999?
        flags["use_karras_sigmas"] = False
    if schedule == "squaredcos_cap_v2":  # 1/alpha = 20,000 would magnify diffusers' float32 rounding
        algorithm = ("dpmsolver++", algorithm[1])
    if flags["use_karras_sigmas"] and algorithm[1] == "sigma_min":  # the last step has length 0: NaN in diffusers
        flags["euler_at_final"] = True
    if name == "PNDMScheduler" and not flags["skip_prk_steps"]:
        steps, fraction = max(steps, 4), 0
    ours, theirs = pair(name, timestep_spacing=spacing, beta_start=0.00085, beta_end=0.012, beta_schedule=schedule,
                        steps_offset=offset, prediction_type=prediction_type, solver_order=solver_order,
                        solver_type=solver_type, algorithm_type=algorithm[0], final_sigmas_type=algorithm[1],
                        **({"variance_type": variance_type} if name == "DDPMScheduler" else {}),
                        clip_sample_range=clip_sample_range, **flags)
    assert_same_run(ours, theirs, steps, begin=int(fraction * (steps - 1)), dtype=torch.float64, rtol=RTOL)


def test_karras_sigmas_of_a_schedule_that_is_stretched():
    """Its last σ are not sorted, so one that is rounded differently would be found in another place."""
    ours, theirs = pair("DPMSolverMultistepScheduler", rescale_betas_zero_snr=True, use_karras_sigmas=True)
    assert_same_run(ours, theirs, 7)


def test_ddim_eta():
    for eta in (0.3, 1.0):
        assert_same_run(*pair("DDIMScheduler", **SD), 20, eta=eta)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler",
                                  "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_zero_terminal_snr(name):
    config = SD | {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    # In double, because the first step, from σ = 4096, cancels four digits, and float32 has only seven.
    assert_same_run(*pair(name, **config), 20, dtype=torch.float64)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_velocity(name):
    ours, theirs = pair(name, **SD)
    x0, noise = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([0, 1, 300, 998, 999])
    torch.testing.assert_close(ours.get_velocity(x0, noise, t), theirs.get_velocity(x0, noise, t), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), rtol=1e-6, atol=1e-6)


# --- each other's configs -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_configs_go_both_ways(name, tmp_path):
    ours, theirs = pair(name, **SD, prediction_type="v_prediction")
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    there = getattr(diffusers, name).from_pretrained(tmp_path / "ours")
    here = getattr(schedulers, name).from_config(tmp_path / "theirs")
    for field in ours.DEFAULTS:
        assert there.config[field] == theirs.config[field] == ours.config[field] == here.config[field]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", NAMES)
def test_swapping_samplers_gives_the_same_config(name, before):
    ours, theirs = pair(before, **SD)
    swapped = getattr(schedulers, name).from_config(ours.config)
    reference = getattr(diffusers, name).from_config(theirs.config)
    for field in swapped.DEFAULTS:
        assert swapped.config[field] == reference.config[field], field
    mixed = getattr(diffusers, name).from_config(ours.config)  # their class, our config
    assert all(mixed.config[field] == swapped.config[field] for field in swapped.DEFAULTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", NAMES)
def test_swapped_samplers_ignore_the_fields_of_others(name, before):
    """A config keeps the fields of earlier samplers for the next swap. Used, they would change the run."""
    mine, reference = pair(before, **SD | {"clip_sample": True, "clip_sample_range": 0.5, "use_karras_sigmas": True,
                                           "final_sigmas_type": "sigma_min", "rescale_betas_zero_snr": False,
                                           "euler_at_final": True})
    assert_same_run(getattr(schedulers, name).from_config(mine.config),
                    getattr(diffusers, name).from_config(reference.config), 8, dtype=torch.float64)


# --- inside diffusers' pipelines ----------------------------------------------------------------------------------

@cache
def tiny_parts():
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    return {"unet": unet.eval(), "vae": vae.eval(), "text_encoder": None, "tokenizer": None, "safety_checker": None,
            "feature_extractor": None, "requires_safety_checker": False}


def draw(pipeline_class, scheduler, **inputs):
    pipe = pipeline_class(**tiny_parts(), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    context = torch.randn(2, 1, 77, 16, generator=torch.Generator().manual_seed(1))
    return pipe(prompt_embeds=context[0], negative_prompt_embeds=context[1], num_inference_steps=6, output_type="pt",
                generator=torch.Generator().manual_seed(2), **inputs).images


@pytest.mark.parametrize("name", NAMES)
def test_text_to_image_inside_a_diffusers_pipeline(name):
    mine, reference = (draw(diffusers.StableDiffusionPipeline, scheduler, height=16, width=16)
                       for scheduler in pair(name, **SD))
    assert reference.std() > 0.01
    torch.testing.assert_close(mine, reference, rtol=0, atol=RTOL)


@pytest.mark.parametrize("name", NAMES)
def test_image_to_image_inside_a_diffusers_pipeline(name):
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    mine, reference = (draw(diffusers.StableDiffusionImg2ImgPipeline, scheduler, image=image, strength=0.7)
                       for scheduler in pair(name, **SD))
    assert reference.std() > 0.01
    torch.testing.assert_close(mine, reference, rtol=0, atol=RTOL)


@pytest.mark.parametrize("name", NAMES)
def test_inpainting_inside_a_diffusers_pipeline(name):
    """With a four-channel U-Net, the known region is put back after every step, by add_noise."""
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12] = 1
    mine, reference = (draw(diffusers.StableDiffusionInpaintPipeline, scheduler, image=image, mask_image=mask,
                            height=16, width=16, strength=0.7) for scheduler in pair(name, **SD))
    torch.testing.assert_close(mine, reference, rtol=0, atol=RTOL)


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_diffusers_pipelines_can_correct_an_outdated_config():
    mine, theirs = pair("DDIMScheduler", **SD | {"steps_offset": 0, "clip_sample": True})
    images = []
    for scheduler in (mine, theirs):
        images.append(draw(diffusers.StableDiffusionPipeline, scheduler, height=16, width=16))
        assert scheduler.config.steps_offset == 1
        assert scheduler.config.clip_sample is False
    torch.testing.assert_close(*images, rtol=0, atol=RTOL)


# --- configs of samplers that minisd lacks ------------------------------------------------------------------------

PUBLISHED = [*NAMES, "DDIMInverseScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler",
             "DEISMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverSinglestepScheduler",
             "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "RePaintScheduler",
             "TCDScheduler", "UniPCMultistepScheduler"]
# What those add that diffusers makes only beside further libraries.
SA_SOLVER = {"predictor_order": 2, "corrector_order": 2, "tau_func": None, "algorithm_type": "data_prediction"}
SDE = {"noise_sampler_seed": None}


@pytest.mark.parametrize("name", NAMES)
def test_fields_of_every_sampler(name):
    """From any published config, a sampler takes what diffusers' of the same name takes, and keeps the rest."""
    for other in PUBLISHED:
        config = json.loads(quietly(getattr(diffusers, other)).to_json_string())
        if config.get("algorithm_type") == "deis":
            config["final_sigmas_type"] = "sigma_min"  # else diffusers' own DPM-Solver cannot follow
        ours, theirs = (getattr(library, name).from_config(config) for library in (schedulers, diffusers))
        assert {field for field in config if field[0] != "_"} <= ours.config.keys()
        differing = {field for field in ours.DEFAULTS if ours.config[field] != theirs.config[field]}
        assert not differing, other
        for scheduler in (ours, theirs):
            scheduler.set_timesteps(7)
        torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=RTOL, atol=0)
        torch.testing.assert_close(ours.timesteps, theirs.timesteps, rtol=RTOL, atol=0, check_dtype=False)
    for fields in (SA_SOLVER, SDE):
        ours = getattr(schedulers, name).from_config(SD | fields)
        assert fields.keys() <= ours.config.keys()
