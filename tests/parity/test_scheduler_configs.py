"""The configs of all schedulers that diffusers has, in each of minisd's: the same run as in diffusers' own class."""

import inspect
import json
import shutil

import diffusers
import pytest
import torch
from diffusers.configuration_utils import ConfigMixin

from minisd import StableDiffusion, schedulers
from tests.parity.test_schedulers_diffusers import assert_same_run
from tests.tiny import quietly

pytestmark = [pytest.mark.filterwarnings("ignore:.*algorithm_types dpmsolver.*:FutureWarning"),
              pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

PUBLISHED = [name for name, one in inspect.getmembers(diffusers, inspect.isclass)
             if "Scheduler" in name and issubclass(one, ConfigMixin) and one is not ConfigMixin]
ENDS = ("sigma_min", "sigma_max")  # of a run with Karras sigmas, whichever sampler's they were


def fields_of(name):
    """A scheduler's fields and their defaults; those without a default say a number."""
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    return {one.name: 1 if one.default is one.empty else one.default for one in parameters
            if one.name != "self" and one.kind is not one.VAR_KEYWORD}


@pytest.mark.parametrize("name", schedulers.__all__)
def test_every_published_config_draws_as_in_diffusers(name):
    cls, reference = getattr(schedulers, name), getattr(diffusers, name)
    seen, refused = [], set()
    for published in PUBLISHED:
        fields = fields_of(published)
        for config in (fields, fields | {"use_karras_sigmas": True}):
            try:
                ours = cls.from_config(config)
            except ValueError as error:
                refused.add((published, str(error).split("; ")[0].removeprefix(f"{name}: ")))
                continue
            assert config.items() <= ours.config.items() or name.startswith("DPM")  # which has its own words for some
            used = {field: ours.config.get(field) for field in (*cls.DEFAULTS, *ENDS)}
            if used in seen:
                continue
            seen.append(used)
            if name.startswith("DPM") and published in ("DEISMultistepScheduler", "SASolverScheduler"):
                continue  # diffusers' fails on the others' words for what it has, too
            theirs = quietly(reference.from_config, config)
            assert_same_run(ours, theirs, 4, dtype=torch.float64)
    distilled = {("CMStochasticIterativeScheduler", "original_inference_steps=50")} if name.startswith("LCM") else set()
    assert refused == distilled | {  # each of these predicts something that no network of Stable Diffusion does
        *((flow, "prediction_type='flow_prediction' is not supported") for flow in ("HeliosDMDScheduler",
                                                                                   "HeliosScheduler")),
        ("SCMScheduler", "prediction_type='trigflow' is not supported")}
    assert len(seen) > 5


def test_what_is_refused_does_not_draw_in_diffusers_either():
    """Neither a prediction type that no sampler here has, nor LCM with more steps of distillation than of training."""
    for name in schedulers.__all__:
        if name != "DPMSolverMultistepScheduler":  # which has flow_prediction, for schedules of its own
            theirs = getattr(diffusers, name)(prediction_type="flow_prediction")
            theirs.set_timesteps(4)
            x = theirs.scale_model_input(torch.zeros(1, 1, 2, 2), theirs.timesteps[0])
            with pytest.raises((ValueError, NotImplementedError), match="prediction_type"):
                theirs.step(x, theirs.timesteps[0], x)
    with pytest.raises(ValueError, match="original_steps"):
        diffusers.LCMScheduler(num_train_timesteps=40).set_timesteps(4)


@pytest.mark.parametrize("wrong", [0, -1.0, "1", float("inf"), float("nan"), True])
def test_bad_ends(wrong):
    for cls in (schedulers.EulerDiscreteScheduler, schedulers.DPMSolverMultistepScheduler):
        with pytest.raises(ValueError, match=f"{cls.__name__}: sigma_max={wrong!r}; it must be a number above 0"):
            cls.from_config({"sigma_max": wrong})


# --- in a folder --------------------------------------------------------------------------------------------------

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize(("config", "way_out"), [
    ({"_class_name": "DEISMultistepScheduler", **BETAS}, "ddim"),
    ({"_class_name": "DDIMScheduler", **BETAS, "thresholding": True}, "euler"),  # which has no such field
    ({"_class_name": "UniPCMultistepScheduler", **BETAS, "prediction_type": "flow_prediction"}, None),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}, None),
    ({"_class_name": "EulerDiscreteScheduler", **BETAS, "skip_steps": True}, None)])
def test_another_sampler_is_proposed_only_where_it_helps(tiny, tmp_path, config, way_out):
    folder = shutil.copytree(tiny["sd1"], tmp_path / "sd1")
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"sd1.scheduler: ") as caught:
        StableDiffusion.from_pretrained(folder)
    assert ("--scheduler" in str(caught.value)) is (way_out is not None)
    if way_out:
        assert f'pass scheduler="{way_out}", for example, or --scheduler {way_out} on' in str(caught.value)
        StableDiffusion.from_pretrained(folder, scheduler=way_out)
    elif "Flow" not in config["_class_name"]:
        with pytest.raises(ValueError, match=r"sd1.scheduler: DDIMScheduler: "):  # the file is named here, too
            StableDiffusion.from_pretrained(folder, scheduler="ddim")
