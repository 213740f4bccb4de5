"""The fields of a scheduler_config.json: which values are supported, and how the file is read and written."""

import json
from math import inf
from numbers import Real
from pathlib import Path
from typing import Any

from minisd.files import read_json
from minisd.messages import quoted
from minisd.saving import atomic_folder

# The fields of minisd's samplers in a published scheduler_config.json, and their supported values (None: not a fixed
# list, or of no effect while another field is off).
FIELDS: dict[str, tuple | None] = {
    "num_train_timesteps": None, "beta_start": None, "beta_end": None, "trained_betas": None, "steps_offset": None,
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"), "rescale_betas_zero_snr": (False, True),
    "prediction_type": ("epsilon", "v_prediction", "sample"), "timestep_spacing": ("leading", "linspace", "trailing"),
    "clip_sample": (False, True), "clip_sample_range": None, "set_alpha_to_one": (False, True),
    "thresholding": (False,), "dynamic_thresholding_ratio": None, "sample_max_value": None,
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large"), "skip_prk_steps": (False, True),
    "use_karras_sigmas": (False, True), "use_exponential_sigmas": (False,), "use_beta_sigmas": (False,),
    "interpolation_type": ("linear",), "timestep_type": ("discrete",), "sigma_min": None, "sigma_max": None,
    "final_sigmas_type": ("zero", "sigma_min"), "solver_order": (1, 2, 3), "solver_type": ("midpoint", "heun"),
    "algorithm_type": ("dpmsolver++", "dpmsolver"), "lower_order_final": (False, True), "euler_at_final": (False, True),
    "lambda_min_clipped": (-inf,), "use_lu_lambdas": (False,), "use_flow_sigmas": (False,), "flow_shift": None,
    "use_dynamic_shifting": (False,), "time_shift_type": None, "original_inference_steps": None,
    "timestep_scaling": None,
}
# Those of the samplers that minisd lacks; the last two are of 2022.
ELSEWHERE = {
    "predict_x0", "disable_corrector", "solver_p", "shift_terminal", "predictor_order", "corrector_order",
    "tau_func", "noise_sampler_seed", "eta", "snr_shift_scale", "gamma", "final_step_size_scale", "invert_sigmas",
    "stochastic_sampling", "sigma_data", "sigma_schedule", "rho", "scaler", "s", "shift", "base_shift", "max_shift",
    "base_image_seq_len", "max_image_seq_len", "upscale_mode", "stages", "stage_range", "scale_factors",
    "scheduler_type", "s_noise", "s_churn", "s_min", "s_max", "snr", "sampling_eps", "correct_steps",
    "clip_denoised", "num_policy_substeps", "eps", "tail_steps", "tail_step_multiplier", "t_min", "t_max",
    "t_lim_ode", "t_lim_ode_below", "tsr_k", "tsr_sigma", "schedule_mode", "noise_mode", "n_grid",
    "num_inference_steps", "block_length", "masking_schedule", "mask_token_id", "minimal_topk", "threshold",
    "editing_threshold", "entropy_bound", "corrector_k", "corrector_steps", "corrector_selection",
    "corrector_selection_tau", "num_vec_classes", "alpha_cum_start", "alpha_cum_end", "gamma_cum_start",
    "gamma_cum_end", "tensor_format", "timestep_values",
}

COMMON = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
          "trained_betas": None, "prediction_type": "epsilon", "steps_offset": 0}


class SchedulerConfig(dict):
    """A sampler's fields, readable as attributes. It may also hold fields that only other samplers use."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"the config has no field {name!r}; it has {', '.join(self)}")
        return self[name]


def check_config(name: str, defaults: dict, given: dict) -> SchedulerConfig:
    """Fill in the defaults, and check the fields one by one."""
    for field, value in given.items():
        if field not in defaults:
            anothers = is_anothers(field, defaults)
            hint = "; it belongs to another sampler, and from_config would keep it" if anothers else ""
            raise ValueError(f"{name}: unknown field {quoted(field)} (value {quoted(value)}){hint}; "
                             "known are " + ", ".join(defaults))
        values = FIELDS[field]
        if values is not None and value not in values:
            supported = " or ".join(repr(v) for v in values)
            raise ValueError(f"{name}: {field}={quoted(value)} is not supported; it must be {supported}")
    config = SchedulerConfig(defaults | given)
    for field, least, most in (("num_train_timesteps", 2, 100_000), ("steps_offset", 0, 100_000),
                               ("original_inference_steps", 1, config.num_train_timesteps)):
        if field in config and (type(config[field]) is not int or not least <= config[field] <= most):
            raise ValueError(f"{name}: {field}={quoted(config[field])}; it must be a whole number from "
                             f"{least} to {most}")
    betas = config.trained_betas
    if betas is not None:
        if not isinstance(betas, (list, tuple)) or not all(is_fraction(beta) for beta in betas):
            raise ValueError(f"{name}: trained_betas must be a list of numbers between 0 and 1")
        config["trained_betas"] = [float(beta) for beta in betas]
        if len(config.trained_betas) != config.num_train_timesteps:
            raise ValueError(f"{name}: trained_betas has {len(config.trained_betas)} values; it must have as many as "
                             f"num_train_timesteps, {config.num_train_timesteps}")
    if not (is_fraction(config.beta_start) and is_fraction(config.beta_end)):
        raise ValueError(f"{name}: beta_start={quoted(config.beta_start)}, beta_end="
                         f"{quoted(config.beta_end)}; both must be between 0 and 1")
    for field in ("clip_sample_range", "timestep_scaling"):
        check_positive(name, field, config.get(field, 1.0))
    check_sigmas(name, config)
    config |= {"_class_name": name, "_use_default_values": [field for field in defaults if field not in given]}
    return config


def check_sigmas(name: str, config: dict) -> None:
    """The ends of a run with Karras sigmas, which count even where they are another sampler's fields."""
    for field in ("sigma_min", "sigma_max"):
        if config.get(field) is not None:
            check_positive(name, field, config[field])


def check_positive(name: str, field: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < inf:
        raise ValueError(f"{name}: {field}={quoted(value)}; it must be a number above 0, and finite")


def is_fraction(value: object) -> bool:
    return isinstance(value, Real) and 0 < float(value) < 1


def split_fields(name: str, defaults: dict, given: dict) -> tuple[dict, dict]:
    """A sampler's own fields, among them unknown ones; and those that only other published samplers have."""
    others = {field: value for field, value in given.items() if is_anothers(field, defaults)}
    check_sigmas(name, others)
    return {field: value for field, value in given.items() if field not in others}, others


def is_anothers(field: str, defaults: dict) -> bool:
    """Whether a field is not of this sampler, but of another published one."""
    return field not in defaults and (field in FIELDS or field in ELSEWHERE)


def given_fields(config: dict | str | Path) -> dict:
    """The fields that were set on purpose in a dict, another scheduler's config or a folder's scheduler_config.json:
    without metadata ("_class_name", …) and without fields that merely hold another sampler's defaults.

    Raises:
        ValueError: `predict_epsilon: false`, which until 2022 said that the network predicts x0 (now
            prediction_type "sample"), beside a prediction_type that says otherwise.
    """
    if not isinstance(config, (dict, str, Path)):
        raise TypeError(f"config is {quoted(config)}; it must be a dict, or a folder that holds scheduler_config.json")
    if not isinstance(config, dict):
        config = read_json(Path(config).expanduser() / "scheduler_config.json")
    not_given = config.get("_use_default_values") or []
    given = {name: value for name, value in config.items() if not name.startswith("_") and name not in not_given}
    predicts_epsilon = given.pop("predict_epsilon", True)
    if not isinstance(predicts_epsilon, bool):
        raise ValueError(f"the scheduler's config says predict_epsilon={quoted(predicts_epsilon)}; it must be "
                         "true or false")
    if not predicts_epsilon and given.setdefault("prediction_type", "sample") != "sample":
        raise ValueError(f"the scheduler's config says predict_epsilon=False and prediction_type="
                         f"{quoted(given['prediction_type'])}, which contradict each other; drop the wrong one")
    return given


def write_config(config: dict, folder: str | Path) -> None:
    """Write scheduler_config.json, which diffusers' class of the same name can read."""
    fields = {name: value for name, value in config.items() if name != "_use_default_values"}
    with atomic_folder(folder) as new:
        (new / "scheduler_config.json").write_text(json.dumps(fields, indent=2) + "\n")
