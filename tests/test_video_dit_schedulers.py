"""diffusers' schedulers on a model's path: each leads a perfect prediction back to the latents, others are refused."""

import re
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from gaussian import COVARIANCE, MEAN, Gaussian, sample_gaussian
from torch import Tensor

from data.options import SCHEDULER_NAMES
from video_dit import VideoPipeline
from video_dit.noise import (
    BETAS,
    PREDICTIONS,
    NoiseConfig,
    path_alphas_cumprod,
    prediction_target,
    sampling_levels,
    shift_level,
    sigma,
    to_epsilon,
)
from video_dit.sampling import Prompts, SamplingConfig, Window, num_calls, sample_window
from video_dit.schedulers import (
    MAX_LATENT,
    check_scheduler,
    check_steps,
    clipped_epsilon,
    fresh_scheduler,
    model_scheduler,
    named_scheduler,
    noise_facts,
    ready_scheduler,
    scheduler_alphas_cumprod,
)
from video_dit.tokens import Segments, latent_times

PATHS = [NoiseConfig(path="vp", schedule=s, prediction=p) for s in BETAS for p in PREDICTIONS["vp"]]
OF_VP = ["DDPM", "DDIM", "PNDM", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep"]

# diffusers' Euler schedulers hand a tensor to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def named(noise: NoiseConfig) -> str:
    return f"{noise.schedule}-{noise.prediction}"


def scheduler(name: str, noise: NoiseConfig, **changed: Any) -> Any:
    return getattr(diffusers, f"{name}Scheduler").from_config(model_scheduler(noise).config, **changed)


class Knowing:
    """Predicts as one who knows the latents that all samples are to become, off by a random ``error``."""

    def __init__(self, noise: NoiseConfig, latents: Tensor, error: float = 0.0) -> None:
        self.noise, self.latents, self.error = noise, latents, error
        self.config = SimpleNamespace(patch_size=1, base_tokens=4)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def text_keys_values(self, prompt_embeds: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(prompt_embeds, prompt_embeds)]

    def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
        level, path = levels[level_index][:, None], path_alphas_cumprod(self.noise)
        self.calls.append((hidden_states, level))
        epsilon = to_epsilon("sample", self.latents, hidden_states, level, path)
        output = prediction_target(self.noise.prediction, self.latents, epsilon, level, path)
        return output + self.error * torch.randn(output.shape, generator=torch.Generator().manual_seed(len(self.calls)))


def sample(model: Knowing, scheduler: Any, steps: int, known: bool = False, **options: Any) -> Tensor:
    """One window of 3 frames of 2x2 latents, the first of them known if so: its tokens ``(12, 4)``."""
    latents = torch.zeros(1, 4, 3, 2, 2)
    latents[0, :, 0] = model.latents[:4].T.view(4, 2, 2)
    is_known = torch.tensor([known, False, False])
    one_frame, strength = torch.tensor([True, False, False]), options.pop("strength", 1.0)
    window = Window(latents, is_known, latent_times(3, 8.0, 4, True), one_frame, strength=strength)
    prompts = Prompts(torch.zeros(1, 8), Segments.from_lengths([1]))
    generator = torch.Generator().manual_seed(options.pop("seed", 0))
    config = SamplingConfig(steps, 1.0, **options)
    return sample_window(model, scheduler, window, prompts, config, generator).flatten(2)[0].T


@pytest.fixture
def latents() -> Tensor:
    return 1.5 * torch.randn(12, 4, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("noise", PATHS, ids=named)
@pytest.mark.parametrize("name", OF_VP)
def test_a_perfect_prediction_leads_back_to_the_latents(noise: NoiseConfig, name: str, latents: Tensor) -> None:
    model = Knowing(noise, latents)
    out = sample(model, scheduler(name, noise), 20)
    assert torch.allclose(out, latents, atol=2e-3)
    for tokens, level in model.calls[:-1]:  # what it is shown is as noisy as it is told
        assert 0 < float(level[0]) <= 1
        assert torch.isfinite(tokens).all()
    noisy, level = model.calls[0]
    assert float(level[0]) > (0.94 if noise.schedule == "cosine" else 0.999)
    assert 0.6 < float(noisy.std()) < 1.5


@pytest.mark.parametrize("noise", PATHS, ids=named)
@pytest.mark.parametrize("name", OF_VP)
def test_small_errors_stay_small(noise: NoiseConfig, name: str, latents: Tensor) -> None:
    """Above all at the end of the cosine, where an epsilon is divided by 5e-5."""
    assert (sample(Knowing(noise, latents, error=0.02), scheduler(name, noise), 20) - latents).abs().max() < 1.0


@pytest.mark.parametrize("noise", PATHS, ids=named)
def test_known_tokens_are_noised_along_the_path(noise: NoiseConfig, latents: Tensor) -> None:
    model, path = Knowing(noise, latents), path_alphas_cumprod(noise)
    out = sample(model, scheduler("DDIM", noise), 5, known=True, context_level=0.3)
    assert torch.equal(out[:4], latents[:4])
    assert torch.allclose(out[4:], latents[4:], atol=1e-3)
    first = model.calls[0][0][:4]
    drawn = to_epsilon("sample", latents[:4], first, torch.tensor(0.3), path)
    assert float(drawn.std()) == pytest.approx(1, abs=0.5)
    for tokens, level in model.calls:
        assert torch.equal(tokens[:4], first)
        assert torch.allclose(level[:4], torch.tensor(0.3))
    clean = Knowing(noise, latents)
    sample(clean, scheduler("DDIM", noise), 2, known=True, context_level=0.0)
    assert torch.equal(clean.calls[0][0][:4], latents[:4])


@pytest.mark.parametrize("name", ["DDPM", "EulerAncestralDiscrete"])
def test_noise_on_the_way_comes_from_the_generator(name: str, latents: Tensor) -> None:
    noise = NoiseConfig(path="vp", prediction="epsilon")

    class Blind(Knowing):
        def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
            return 0.5 * hidden_states

    outs = [sample(Blind(noise, latents), scheduler(name, noise), 5, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(outs[0], outs[1])
    assert not torch.allclose(outs[0], outs[2])


def test_the_model_is_asked_at_timesteps_by_level(latents: Tensor) -> None:
    noise = NoiseConfig(path="vp", prediction="epsilon")
    model = Knowing(noise, latents)
    sample(model, scheduler("DDIM", noise), 4)
    assert torch.allclose(torch.stack([level[0, 0] for _, level in model.calls]), torch.tensor([1, 0.75, 0.5, 0.25]))


@pytest.mark.parametrize("noise", [*PATHS, NoiseConfig()], ids=named)
def test_what_is_stored_tells_what_was_trained(noise: NoiseConfig, tmp_path: Any) -> None:
    stored = model_scheduler(noise)
    stored.save_pretrained(tmp_path)
    facts = noise_facts(type(stored).from_pretrained(tmp_path))
    assert facts == noise_facts(stored)
    assert (facts["path"], facts["prediction"]) == (noise.path, noise.prediction)
    assert facts.get("schedule", noise.schedule) == noise.schedule
    table = scheduler_alphas_cumprod(stored)
    assert (table is None) == (noise.path == "straight")
    assert table is None or torch.allclose(table, path_alphas_cumprod(noise), rtol=1e-6)


def test_a_fresh_scheduler_takes_epsilons_and_leaves_the_given_one() -> None:
    given = scheduler("DDIM", NoiseConfig(path="vp", prediction="sample"))
    fresh = fresh_scheduler(given)
    assert (given.config.prediction_type, fresh.config.prediction_type) == ("sample", "epsilon")
    assert type(fresh) is type(given)
    assert fresh is not given


@pytest.mark.parametrize("prediction", PREDICTIONS["vp"])
def test_latents_are_kept_within_bounds(prediction: str) -> None:
    noise = NoiseConfig(path="vp", schedule="cosine", prediction=prediction)
    path, level = path_alphas_cumprod(noise), torch.tensor(1.0)
    assert path is not None
    noisy = torch.randn(50, generator=torch.Generator().manual_seed(0))
    epsilon = clipped_epsilon(prediction, torch.full((50,), 9.0), noisy, level, path)
    meant = (noisy - (1 - path[-1]).sqrt() * epsilon) / path[-1].sqrt()
    assert (meant.abs() < 1.01 * MAX_LATENT).all()


MISMATCHES = [
    (
        NoiseConfig(),
        "DDIM",
        PATHS[0],
        "scheduler=DDIMScheduler has noise.path=vp, and the model noise.path=straight",
    ),
    (PATHS[0], "FlowMatchEulerDiscrete", PATHS[0], "noise.path=straight, and the model noise.path=vp: use one of that"),
    (PATHS[1], "DDPM", PATHS[0], "noise.prediction=epsilon, and the model noise.prediction=v_prediction: use DDPMSch"),
    (PATHS[0], "PNDM", PATHS[3], "noise.schedule=scaled_linear, and the model noise.schedule=linear: use PNDMSche"),
]


@pytest.mark.parametrize(
    ("trained", "name", "of", "message"), MISMATCHES, ids=["path", "flow", "prediction", "schedule"]
)
def test_schedulers_of_another_path_are_refused(trained: NoiseConfig, name: str, of: NoiseConfig, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_scheduler(scheduler(name, of), noise_facts(model_scheduler(trained)))


def test_schedulers_that_clip_or_have_other_betas_are_refused() -> None:
    trained = noise_facts(model_scheduler(PATHS[0]))
    check_scheduler(scheduler("DDPM", PATHS[0]), trained)
    with pytest.raises(ValueError, match="DDPMScheduler has clip_sample=True, which cuts latents off at 1: use DDPM"):
        check_scheduler(diffusers.DDPMScheduler(), trained)
    with pytest.raises(ValueError, match=r"noise\.schedule=another, and the model noise.schedule=linear"):
        check_scheduler(diffusers.DDIMScheduler(beta_end=0.03), trained)


@pytest.mark.parametrize("name", ["DDIM", "PNDM"])
def test_steps_that_would_not_arrive_are_refused(name: str) -> None:
    noise = NoiseConfig(path="vp", prediction="sample")
    its = scheduler(name, noise)
    for steps in (1, 30, 499, 500, 1000):
        check_steps(its, steps)
    message = rf"num_inference_steps=600 with {name}Scheduler must divide 1000 or be at most 500: use 500 or 1000"
    with pytest.raises(ValueError, match=message):
        check_steps(its, 600)
    for other in set(OF_VP) - {"DDIM", "PNDM"}:
        check_steps(scheduler(other, noise), 600)


@pytest.mark.parametrize("name", ["UniPCMultistep", "DPMSolverMultistep"])
def test_flow_schedulers_of_both_families_are_of_the_straight_path(name: str) -> None:
    family, trained = getattr(diffusers, f"{name}Scheduler"), noise_facts(model_scheduler(NoiseConfig()))
    check_scheduler(family(use_flow_sigmas=True, prediction_type="flow_prediction"), trained)
    with pytest.raises(ValueError, match=r"prediction=epsilon, and the model noise\.prediction=velocity"):
        check_scheduler(family(use_flow_sigmas=True), trained)
    with pytest.raises(ValueError, match=r"noise\.path=vp, and the model noise\.path=straight"):
        check_scheduler(family(prediction_type="flow_prediction"), trained)


STRAIGHT = {"euler": 60, "heun": 15, "unipc": 15, "dpm++": 15}
VP = {"ddpm": 250, "ddim": 100, "pndm": 50, "euler-ancestral": 200, "dpm++": 25, "unipc": 20}
OF_EACH_PATH = [NoiseConfig(), PATHS[0], PATHS[4], PATHS[8]]  # epsilon, v_prediction and sample, by a schedule each
NAMED = [(noise, name) for noise in OF_EACH_PATH for name in (STRAIGHT if noise.path == "straight" else VP)]


@pytest.mark.parametrize(("noise", "name"), NAMED, ids=[f"{named(noise)}-{name}" for noise, name in NAMED])
def test_data_have_their_mean_and_covariance(noise: NoiseConfig, name: str) -> None:
    """Of 16,384 tokens, so that chance alone is off by about 0.01. The better solvers have fewer steps."""
    steps = (STRAIGHT if noise.path == "straight" else VP)[name]
    _, made, _ = sample_gaussian(Gaussian(noise), named_scheduler(name, model_scheduler(noise)), steps, 64)
    assert (made.mean(dim=0) - MEAN).abs().max() < 0.06
    assert (made.T.cov() - COVARIANCE).abs().max() < 0.09


def flow_error(name: str, steps: int) -> tuple[int, float]:
    """How often the model was asked, and how far samples are from where the exact flow leads."""
    model = Gaussian(NoiseConfig())
    _, made, noise = sample_gaussian(model, named_scheduler(name, model_scheduler(NoiseConfig())), steps)
    return len(model.calls), float((made - model.end(noise, torch.tensor(1.0))).abs().max())


def test_solvers_of_higher_order_come_nearer_with_as_many_calls() -> None:
    for calls in (15, 39):
        _, euler = flow_error("euler", calls)
        for name in ("heun", "unipc", "dpm++"):
            asked, error = flow_error(name, (calls + 1) // 2 if name == "heun" else calls)
            assert asked == calls
            assert error < euler / 3, name


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("unipc", 2), ("dpm++", 2)])
def test_the_error_falls_as_the_order_says(name: str, order: int) -> None:
    coarse, fine = (flow_error(name, steps)[1] for steps in (20, 80))
    assert fine < coarse / 4 ** (order - 0.5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("name", STRAIGHT)
def test_solvers_of_the_straight_path_ask_at_our_levels(name: str, shift: float) -> None:
    levels = sampling_levels(7, shift)
    its = named_scheduler(name, model_scheduler(NoiseConfig()))
    fresh, timesteps, asked = ready_scheduler(its, 7, shift, torch.device("cpu"))
    expected = levels.repeat_interleave(2)[1:] if name == "heun" else levels
    assert torch.allclose(asked, expected, atol=2e-6)
    assert torch.equal(fresh.timesteps, timesteps)
    assert torch.allclose(timesteps, 1000 * asked)
    assert num_calls(its, 7) == len(asked)
    shifted = named_scheduler(name, diffusers.FlowMatchEulerDiscreteScheduler(shift=shift))
    on_top = ready_scheduler(shifted, 7, 1.0, torch.device("cpu"))[2]
    assert torch.allclose(on_top, expected, atol=2e-6)


@pytest.mark.parametrize("name", STRAIGHT)
def test_many_levels_near_the_end_are_told_apart(name: str) -> None:
    """Some schedulers look for where they begin among timesteps, which they round."""
    model = Gaussian(NoiseConfig(), base_tokens=9)  # a shift of 6
    _, made, noise = sample_gaussian(model, named_scheduler(name, model_scheduler(NoiseConfig())), 400)
    assert (made - model.end(noise, torch.tensor(1.0))).abs().max() < 0.05
    levels = torch.stack([level.max() for _, level in model.calls])
    assert float(levels[0]) == pytest.approx(1, abs=2e-6)
    assert (levels.diff() <= 0).all()


@pytest.mark.parametrize("way", [(0.3, 20), (0.77, 20), (0.97, 20), (0.8, 4)])
@pytest.mark.parametrize(("noise", "name"), NAMED, ids=[f"{named(noise)}-{name}" for noise, name in NAMED])
def test_each_begins_on_the_way_as_well(noise: NoiseConfig, name: str, way: tuple[float, int], latents: Tensor) -> None:
    (strength, steps), model, path = way, Knowing(noise, latents), path_alphas_cumprod(noise)
    out = sample(model, named_scheduler(name, model_scheduler(noise)), steps, strength=strength)
    assert torch.allclose(out, latents, atol=2e-3)
    tokens, level = model.calls[0]
    reached = float(shift_level(torch.tensor(strength), 3**0.5)) if path is None else strength
    assert reached - 1.1 / steps < float(level[0]) <= reached + 1e-6
    assert float(tokens[4:].std() / sigma(level, path).mean()) == pytest.approx(1, abs=0.3)  # latents are 0 there


@pytest.mark.parametrize(("noise", "name"), NAMED, ids=[f"{named(noise)}-{name}" for noise, name in NAMED])
def test_steps_are_those_of_diffusers(noise: NoiseConfig, name: str, latents: Tensor) -> None:
    """Replayed by the scheduler alone, from what the model said."""
    its, outputs = named_scheduler(name, model_scheduler(noise)), []

    class Odd(Knowing):
        def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
            self.calls.append((hidden_states, levels[level_index][:, None]))
            outputs.append(0.3 * hidden_states.sin() - 0.2)
            return outputs[-1]

    model = Odd(noise, latents)
    out, path = sample(model, its, 6), path_alphas_cumprod(noise)
    alone = type(its).from_config(its.config, **({} if path is None else {"prediction_type": "epsilon"}))
    if name in ("euler", "unipc"):
        sigmas = {"sigmas": sampling_levels(6, 3**0.5).numpy()} if path is None else {"num_inference_steps": 6}
        alone.set_timesteps(**sigmas)
    else:
        alone.set_timesteps(6)
    if path is None and name in ("heun", "dpm++"):
        levels = [*(float(level[0]) for _, level in model.calls), 0.0]
        alone.sigmas = torch.tensor(levels)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 12, 4, generator=generator) * (1.0 if path is None else alone.init_noise_sigma)
    draws = {"generator": generator} if name in ("ddpm", "ddim", "euler-ancestral") else {}
    for timestep, output, (shown, level) in zip(alone.timesteps, outputs, model.calls, strict=True):
        seen = x if path is None else alone.scale_model_input(x, timestep)
        assert torch.allclose(seen[0], shown, atol=1e-5 * float(shown.abs().max()))
        said = output if path is None else clipped_epsilon(noise.prediction, output, shown, level, path)
        x = alone.step(said[None], timestep, x, return_dict=False, **draws)[0]
    assert torch.allclose(x[0], out, atol=1e-5 * float(out.abs().max()))


def test_heun_averages_the_slopes_of_both_ends(latents: Tensor) -> None:
    """By the formula: with two steps, the first is the trapezoid's, the last is Euler's."""

    class Slope(Knowing):
        def __call__(self, hidden_states: Tensor, levels: Tensor, level_index: Tensor, **rest: Any) -> Tensor:
            self.calls.append((hidden_states, levels[level_index][:, None]))
            return hidden_states.sin()

    model = Slope(NoiseConfig(), latents)
    out = sample(model, named_scheduler("heun", model_scheduler(NoiseConfig())), 2)
    (start, first), (predicted, second), (middle, third) = model.calls
    step = second - first
    assert torch.equal(second, third)
    assert torch.allclose(predicted, start + step * start.sin(), atol=1e-5)
    assert torch.allclose(middle, start + step * (start.sin() + predicted.sin()) / 2, atol=1e-5)
    assert torch.allclose(out, middle - third * middle.sin(), atol=1e-5)


def test_names_pick_by_the_path_of_the_model() -> None:
    straight, vp = model_scheduler(NoiseConfig()), model_scheduler(PATHS[7])
    assert set(SCHEDULER_NAMES) == {*STRAIGHT, *VP}
    for own, fitting, other, path in ((straight, STRAIGHT, VP, "straight"), (vp, VP, STRAIGHT, "variance-preserving")):
        for name in fitting:
            check_scheduler(named_scheduler(name, own), noise_facts(own))
            check_scheduler(named_scheduler(name, named_scheduler("unipc", own)), noise_facts(own))
        for name in set(other) - set(fitting):
            message = f"scheduler={name} does not go with a model of the {path} path: use {', '.join(fitting)}"
            with pytest.raises(ValueError, match=re.escape(message)):
                named_scheduler(name, own)
    assert noise_facts(named_scheduler("dpm++", straight))["path"] == "straight"
    assert noise_facts(named_scheduler("dpm++", vp)) == noise_facts(vp)


@pytest.mark.parametrize("noise", [PATHS[0], PATHS[7]], ids=named)
@pytest.mark.parametrize("name", OF_VP)
def test_a_pipeline_samples_and_extends_with_each(tiny_pipe: VideoPipeline, noise: NoiseConfig, name: str) -> None:
    pipe = VideoPipeline(**(tiny_pipe.components | {"scheduler": model_scheduler(noise)}))
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler(name, noise)
    frames = torch.zeros(9, 32, 32, 3, dtype=torch.uint8)
    options: dict[str, Any] = {"prompt": "a", "num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt"}
    for direction in ("forward", "backward"):
        made = pipe.extend(frames, direction, seconds=0.5, generator=torch.Generator().manual_seed(0), **options).frames
        assert made.shape == (1, 13, 3, 32, 32)
        assert made.isfinite().all()


def test_a_pipeline_refuses_what_its_model_did_not_learn(tiny_pipe: VideoPipeline) -> None:
    components = tiny_pipe.components | {"scheduler": model_scheduler(PATHS[0])}
    with pytest.raises(ValueError, match=r"num_inference_steps=999 with DDIMScheduler must divide 1000"):
        VideoPipeline(**components)(prompt="a", num_inference_steps=999)
    tiny_pipe.scheduler = scheduler("DDIM", PATHS[0])
    with pytest.raises(ValueError, match=r"scheduler=DDIMScheduler has noise\.path=vp"):
        tiny_pipe(prompt="a", num_inference_steps=1)
    with pytest.raises(ValueError, match=r"scheduler=DDIMScheduler has noise\.path=vp"):
        tiny_pipe.extend(torch.zeros(9, 32, 32, 3, dtype=torch.uint8))
