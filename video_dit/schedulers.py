"""The path from latents to noise as diffusers' schedulers have it: what a model stores of it, and who may sample.

A model learns one path and one kind of prediction on it. The scheduler in its folder says which.
"""

from inspect import signature
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from video_dit.noise import (
    BETAS,
    NUM_TRAIN_TIMESTEPS,
    NoiseConfig,
    add_noise,
    alphas_cumprod,
    sampling_levels,
    shift_level,
    to_epsilon,
    to_sample,
)

BETA_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
"""What diffusers calls the schedules."""
MAX_LATENT = 16.0
"""Normalised latents stay within this many standard deviations (the shipped autoencoder's within 10, on renders)."""


def model_scheduler(noise: NoiseConfig) -> Any:
    """What is stored with a model that was trained with ``noise``, and samples from it by default.

    The others of the vp path are made of it, ``PNDMScheduler.from_config(pipe.scheduler.config)``, so it holds what
    they need as well. Timesteps are "trailing": the first is T − 1, pure noise, and the last leads to the latents. Not
    so on the cosine, whose alpha is 5e-5 there: from it EulerAncestral makes NaN in fp32 (in 3 steps), and PNDM is off
    by hundreds in few. There they are "leading", so the first lies up to T / steps below the end.
    """
    if noise.path == "straight":
        return FlowMatchEulerDiscreteScheduler()
    low, high = BETAS[noise.schedule]
    return DDIMScheduler.from_config(
        {"skip_prk_steps": True},  # of PNDM, whose Runge-Kutta steps would begin above T
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_schedule=BETA_SCHEDULES[noise.schedule],
        beta_start=low,
        beta_end=high,
        prediction_type=noise.prediction,
        clip_sample=False,
        set_alpha_to_one=True,  # so that the last step ends at the latents; others do not see what is a default here
        timestep_spacing="leading" if noise.schedule == "cosine" else "trailing",
    )


def scheduler_alphas_cumprod(scheduler: Any) -> Tensor | None:
    """The path of a diffusers scheduler, as the functions of `video_dit.noise` take it; None is the straight one."""
    return None if scheduler.config.get("use_flow_sigmas") else getattr(scheduler, "alphas_cumprod", None)


def noise_facts(scheduler: Any) -> dict[str, str]:
    """``path``, ``prediction`` and, on the vp path, ``schedule`` by the names of `NoiseConfig`, or "another"."""
    table = scheduler_alphas_cumprod(scheduler)
    if table is None:
        prediction = scheduler.config.get("prediction_type", "flow_prediction")
        return {"path": "straight", "prediction": "velocity" if prediction == "flow_prediction" else prediction}
    same = [
        schedule
        for schedule in BETAS
        if len(table) == NUM_TRAIN_TIMESTEPS and torch.allclose(alphas_cumprod(schedule), table.cpu(), rtol=1e-4)
    ]
    return {
        "path": "vp",
        "schedule": same[0] if same else "another",
        "prediction": scheduler.config["prediction_type"],
    }


def named_scheduler(name: str, own: Any) -> Any:
    """The scheduler of diffusers that is called ``name`` in `data.options`, for a model whose own is ``own``: of the
    same path, prediction and shift.

    Raises:
        ValueError: there is none of this name for the model's path.
    """
    straight = scheduler_alphas_cumprod(own) is None
    fitting = _straight_schedulers() if straight else _vp_schedulers()
    if name not in fitting:
        path = "straight" if straight else "variance-preserving"
        raise ValueError(f"scheduler={name} does not go with a model of the {path} path: use {', '.join(fitting)}")
    if not straight:
        return fitting[name].from_config(own.config)
    shift = _own_shift(own)
    changed: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    if name in ("euler", "heun"):
        changed = {"shift": shift}
    config = {option: value for option, value in own.config.items() if option not in ("shift", "flow_shift")}
    return fitting[name].from_config(config, **changed)


def _straight_schedulers() -> dict[str, Any]:
    return {
        "euler": FlowMatchEulerDiscreteScheduler,
        "heun": FlowMatchHeunDiscreteScheduler,
        "unipc": UniPCMultistepScheduler,
        "dpm++": DPMSolverMultistepScheduler,
    }


def _vp_schedulers() -> dict[str, Any]:
    return {
        "ddpm": DDPMScheduler,
        "ddim": DDIMScheduler,
        "pndm": PNDMScheduler,
        "euler-ancestral": EulerAncestralDiscreteScheduler,
        "dpm++": DPMSolverMultistepScheduler,
        "unipc": UniPCMultistepScheduler,
    }


def _own_shift(scheduler: Any) -> float:
    """What a scheduler of the straight path does to levels besides, 1 by default."""
    return scheduler.config.get("flow_shift", scheduler.config.get("shift", 1.0))


def check_scheduler(scheduler: Any, trained: dict[str, str]) -> None:
    """Raises ValueError unless ``scheduler`` samples from models with these `noise_facts`."""
    name, facts = type(scheduler).__name__, noise_facts(scheduler)
    same_path = facts["path"] == trained["path"]
    fix = f"use {name}.from_config(pipe.scheduler.config) with the model's own scheduler"
    if not same_path:
        usual = "FlowMatchEulerDiscreteScheduler" if trained["path"] == "straight" else "DDIMScheduler or DDPMScheduler"
        fix = f"use one of that path, such as {usual}"
    for fact, value in trained.items():
        if (its := facts.get(fact)) != value:
            raise ValueError(f"scheduler={name} has noise.{fact}={its}, and the model noise.{fact}={value}: {fix}")
    if facts["path"] == "vp" and scheduler.config.get("clip_sample"):
        raise ValueError(f"scheduler={name} has clip_sample=True, which cuts latents off at 1: {fix}")


def check_deterministic(scheduler: Any) -> None:
    """Raises ValueError where a scheduler adds noise as it goes, so that its steps cannot be followed back."""
    config = scheduler.config
    drawn = config.get("stochastic_sampling") or str(config.get("algorithm_type", "")).startswith("sde")
    if drawn or isinstance(scheduler, DDPMScheduler | EulerAncestralDiscreteScheduler):
        name = type(scheduler).__name__
        raise ValueError(f"scheduler={name} adds noise at each step, and cannot be followed back: use the model's own")


def check_steps(scheduler: Any, steps: int) -> None:
    """Raises ValueError where DDIM or PNDM would not arrive at the latents in so many steps: they go by T // steps
    timesteps, which beyond T / 2 is 1 whatever lies between those they are asked at."""
    count = scheduler.config.num_train_timesteps
    if isinstance(scheduler, DDIMScheduler | PNDMScheduler) and steps > count / 2 and count % steps:
        raise ValueError(
            f"num_inference_steps={steps} with {type(scheduler).__name__} must divide {count} or be at most "
            f"{count // 2}: use {count // 2} or {count}"
        )


def fresh_scheduler(scheduler: Any) -> Any:
    """A copy without a state, to step one window. On the vp path it takes epsilons, whatever the model predicts."""
    changed = {} if scheduler_alphas_cumprod(scheduler) is None else {"prediction_type": "epsilon"}
    return type(scheduler).from_config(scheduler.config, **changed)


def ready_scheduler(
    scheduler: Any, steps: int, shift: float, device: torch.device, strength: float = 1.0
) -> tuple[Any, Tensor, Tensor]:
    """A fresh copy that is about to step, and the timesteps and levels at which it has the model asked, ``(calls,)``
    each.

    Args:
        steps: from level 1. shift: of the levels of the straight path; what the scheduler is shifted by comes on top.
            On the vp path it has levels of its own.
        strength: the share of the way from level 1 that is gone, before the shift; its steps are as many.
    """
    fresh = fresh_scheduler(scheduler)
    if scheduler_alphas_cumprod(scheduler) is not None:
        fresh.set_timesteps(steps, device=device)
        timesteps = _last_timesteps(fresh, strength)
        return fresh, timesteps, (timesteps.float() + 1) / NUM_TRAIN_TIMESTEPS
    own_shift = _own_shift(scheduler)
    levels = sampling_levels(steps, shift * own_shift, strength)  # of two shifts, one after the other
    if "sigmas" in signature(fresh.set_timesteps).parameters:
        fresh.set_timesteps(sigmas=shift_level(levels, 1 / own_shift).numpy(), device=device)
    else:  # Heun and DPM++ have no way in
        fresh.set_timesteps(len(levels), device=device)
        places = levels.to(fresh.sigmas)
        if fresh.order == 2:  # the model is asked where a step ends and, with what came of it, where the next begins
            places = torch.cat([places[:1], places[1:].repeat_interleave(2)])
        fresh.sigmas = torch.nn.functional.pad(places, (0, 1))
    asked = fresh.sigmas[: len(fresh.timesteps)]
    # some round their timesteps, and look up among them where to begin
    fresh.timesteps = (asked * NUM_TRAIN_TIMESTEPS).to(device)
    return fresh, fresh.timesteps, asked


def _last_timesteps(scheduler: Any, strength: float) -> Tensor:
    """Those timesteps of a scheduler of the vp path whose level is not above the strength; at least the last."""
    if strength == 1:
        return scheduler.timesteps
    distinct = scheduler.timesteps.unique_consecutive()  # PNDM has the second twice: it takes its first step two times
    above = int(((distinct + 1) / NUM_TRAIN_TIMESTEPS > strength + 1e-6).sum())
    left = distinct[min(above, len(distinct) - 1) :]
    return torch.cat([left[:2], left[1:]]) if isinstance(scheduler, PNDMScheduler) else left


def noised(
    scheduler: Any, latents: Tensor, noise: Tensor, timestep: Tensor, level: Tensor, alphas_cumprod: Tensor | None
) -> Tensor:
    """Latents ``(b, n, d)`` with noise, as a scheduler that is about to step from ``timestep``, at ``level``, takes
    them: some scale what they step."""
    if alphas_cumprod is None:
        return add_noise(latents, noise, level)
    return scheduler.add_noise(latents, noise, timestep.expand(len(latents)))


def clipped_epsilon(prediction: str, output: Tensor, noisy: Tensor, level: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """What a scheduler of the vp path is given of a model's output: the noise, once the latents that go with it are
    kept within `MAX_LATENT` (as in Ho et al., 2020).

    An epsilon is divided by alpha to give latents, so that at the end of the path its errors would grow beyond all
    bounds. It is also what all schedulers take: PNDM takes no ``sample``, and mixes a ``v_prediction`` of several steps
    as if it meant the same at each.
    """
    latents = to_sample(prediction, output, noisy, level, alphas_cumprod).clamp(-MAX_LATENT, MAX_LATENT)
    return to_epsilon("sample", latents, noisy, level, alphas_cumprod)
