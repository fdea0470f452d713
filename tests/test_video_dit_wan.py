"""Wan's transformers under our sampler: what diffusers' pipelines make, and known tokens at the level of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from PIL import Image
from tiny_wan import wan
from torch import Tensor

from video_dit import VideoPipeline
from video_dit.noise import sampling_levels
from video_dit.published import load_wan
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.text import encode_prompts
from video_dit.tokens import latent_times
from video_dit.wan import noised_on

KINDS: dict[str, dict[str, bool]] = {"2.1": {}, "2.2 of 14B": {"two": True}, "2.2 of 5B": {"told": True}}
PROMPTS, NEGATIVE = ["a dog  runs &amp; jumps", "x"], "bad &lt;"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class OurLevels(UniPCMultistepScheduler):
    """At the levels of our sampler; diffusers' own are off by up to 0.001, and cut to whole timesteps."""

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, sigmas: Any = None) -> None:
        if sigmas is None:
            assert num_inference_steps is not None
            sigmas = sampling_levels(num_inference_steps, 1.0).numpy()
        super().set_timesteps(device=device, sigmas=sigmas)
        self.timesteps = 1000 * self.sigmas[:-1]


def loaded(theirs: Any, folder: Path) -> VideoPipeline:
    theirs.save_pretrained(folder)
    pipe = load_wan(folder, torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def ours(tmp_path: Path) -> VideoPipeline:
    """A model like Wan 2.1 that makes 5 latent frames at a time."""
    pipe = loaded(wan(), tmp_path)
    pipe.transformer.register_to_config(sample_latent_frames=5)
    return pipe


@pytest.fixture
def video() -> Tensor:
    return torch.randint(0, 256, (14, 32, 48, 3), generator=seeded(3), dtype=torch.uint8)


def noise_for(pipe: VideoPipeline, b: int) -> Tensor:
    return torch.randn(b, 4, 5, 4, 6, generator=seeded(1))


def made_by_theirs(theirs: Any, steps: int, noise: Tensor, pixels: int) -> Tensor:
    size = {"height": 4 * pixels, "width": 6 * pixels, "num_frames": 17}
    settings = {"num_inference_steps": steps, "guidance_scale": 5.0, "latents": noise, "output_type": "latent"}
    return theirs(PROMPTS, [NEGATIVE] * 2, **size, **settings).frames


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_text_to_video_is_that_of_diffusers(kind: dict[str, bool], tmp_path: Path) -> None:
    """With guidance, prompts of several lengths that need cleaning, and the default of the guidance."""
    theirs = wan(**kind)
    pipe = loaded(theirs, tmp_path)
    noise, pixels = noise_for(pipe, 2), pipe.codec.grid

    def ours(steps: int) -> Tensor:
        size = {"height": 4 * pixels, "width": 6 * pixels, "num_frames": 17}
        output: Any = pipe(
            PROMPTS,
            negative_prompt=NEGATIVE,
            num_inference_steps=steps,
            latents=noise,
            output_type="latent",
            **size,  # type: ignore[arg-type]
        )
        return output.frames

    theirs.scheduler = OurLevels.from_config(theirs.scheduler.config)
    expected = made_by_theirs(theirs, 6, noise, pixels)
    assert (expected - noise).std() > 1  # so it is no copy
    torch.testing.assert_close(ours(6), expected, atol=2e-4, rtol=1e-4)


def test_at_the_levels_of_diffusers_little_changes(tmp_path: Path) -> None:
    """Less than with a step more."""
    theirs = wan()
    for name, parameter in theirs.transformer.named_parameters():
        if "time_embedder" in name:  # random ones tell one timestep from the next
            parameter.data.mul_(0.1)
    pipe = loaded(theirs, tmp_path)
    noise = noise_for(pipe, 2)
    settings = {"num_inference_steps": 12, "latents": noise, "output_type": "latent"}
    output: Any = pipe(PROMPTS, 17, 32, 48, negative_prompt=NEGATIVE, **settings)  # type: ignore[arg-type]
    expected, more = (made_by_theirs(theirs, steps, noise, 8) for steps in (12, 13))
    assert (output.frames - expected).abs().mean() < 0.5 * (more - expected).abs().mean()


def test_a_first_frame_is_that_of_diffusers_where_a_level_a_token_is_told(tmp_path: Path) -> None:
    """That model was trained to be shown a picture without noise, and told so."""
    theirs = wan(told=True)
    pipe = loaded(theirs, tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    embeds = dict(
        zip(
            ("prompt_embeds", "negative_prompt_embeds"),
            theirs.encode_prompt("x", "bad", max_sequence_length=512),
            strict=True,
        )
    )
    theirs.scheduler = OurLevels.from_config(theirs.scheduler.config)
    others = dict.fromkeys(("image_encoder", "image_processor"))
    from_picture = WanImageToVideoPipeline(**theirs.components, **others, expand_timesteps=True)
    from_picture.set_progress_bar_config(disable=True)
    settings: dict[str, Any] = {"num_inference_steps": 6, "latents": noise_for(pipe, 1), "output_type": "latent"}
    settings |= {"height": 64, "width": 96, "num_frames": 17}
    expected = from_picture(Image.fromarray(picture), **embeds, **settings).frames
    output: Any = pipe("x", negative_prompt="bad", image=picture, context_level=0.0, **settings)
    torch.testing.assert_close(output.frames, expected, atol=2e-4, rtol=1e-4)


def seen_by(transformer: Any) -> list[dict[str, Any]]:
    """What it will be given, call by call."""
    calls: list[dict[str, Any]] = []

    def note(_: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        latents, timestep, text = arguments
        calls.append({"latents": latents.clone(), "timestep": timestep.clone(), "text": text.clone()})

    transformer.register_forward_pre_hook(note, with_kwargs=True)
    return calls


def window(pipe: VideoPipeline, known: Tensor) -> Window:
    latents = 1 + 2 * torch.randn(2, 4, 5, 4, 6, generator=seeded(5))  # not to be taken for noise
    return Window(latents, known, latent_times(5, 16.0, 4, True), torch.arange(5) == 0)


def prompts(pipe: VideoPipeline) -> Prompts:
    texts = (PROMPTS, [NEGATIVE] * 2)
    return Prompts(*(part for of in texts for part in encode_prompts(pipe.tokenizer, pipe.text_encoder, of)))


FRAMES = torch.tensor([True, False, False, True, False])
TOKENS = torch.rand(5, 2, 3, generator=seeded(8)) < 0.5


@pytest.mark.parametrize("known", [FRAMES, TOKENS], ids=["frames", "tokens"])
@pytest.mark.parametrize("context_level", [0.0, 0.03])
def test_known_tokens_come_at_the_level_of_the_others(ours: VideoPipeline, known: Tensor, context_level: float) -> None:
    """So one timestep is told for all; their noise is of that level, and the same at each step and in each row."""
    asked, calls = window(ours, known), seen_by(ours.transformer.high)
    config = SamplingConfig(num_inference_steps=8, context_level=context_level)
    with torch.no_grad():
        made = sample_window(ours.transformer, ours.scheduler, asked, prompts(ours), config, seeded(0))
    here = known[:, None, None].expand(5, 2, 3) if known.ndim == 1 else known
    here = here.repeat_interleave(2, 1).repeat_interleave(2, 2)  # t h w
    assert torch.equal(made[:, :, here], asked.latents[:, :, here])
    assert len(calls) == 8
    assert made[:, :, ~here].isfinite().all()
    noises = []
    for call in calls:
        assert len(call["latents"]) == 4  # two samples, each under its prompt and the negative one
        level = float(call["timestep"][0]) / 1000
        assert torch.equal(call["timestep"], call["timestep"][:1].expand(4))
        seen = call["latents"][:, :, here]
        assert torch.equal(seen[:2], seen[2:])
        noises.append((seen[:2] - (1 - level) * asked.latents[:, :, here]) / level)
    assert calls[0]["timestep"][0] > 999
    for noise in noises:
        assert 0.85 < noise.std() < 1.15
        assert noise.mean().abs() < 0.15
        if context_level == 0:  # else it is a mixture with the noise of the context, of changing shares
            torch.testing.assert_close(noise, noises[0], atol=1e-5, rtol=1e-4)


def test_where_levels_are_told_known_tokens_stay_as_shown(tmp_path: Path) -> None:
    pipe = loaded(wan(told=True), tmp_path)
    asked, calls = window(pipe, TOKENS), seen_by(pipe.transformer.high)
    config = SamplingConfig(num_inference_steps=3, guidance_scale=1.0, history_guidance=1.5)
    with torch.no_grad():
        sample_window(pipe.transformer, pipe.scheduler, asked, prompts(pipe), config, seeded(0))
    known = TOKENS.flatten()
    here = TOKENS.repeat_interleave(2, 1).repeat_interleave(2, 2)
    for call in calls:
        assert call["timestep"].shape == (4, 30)
        assert (call["timestep"][:2, known] == 30).all()
        assert (call["timestep"][2:, known] == 1000).all()  # what is not known, for history guidance
        assert (call["timestep"][:, ~known] == call["timestep"][0, ~known][0]).all()
        assert torch.equal(call["latents"][:2, :, here], calls[0]["latents"][:2, :, here])


def test_noise_is_added_up_to_a_level() -> None:
    """Clean tokens become what `add_noise` makes of them, noisy ones get the rest; at or above it nothing is done."""
    latents, first, second = torch.randn(3, 1, 200_000, generator=seeded(0))
    for level in (0.4, 0.97, 1.0):
        for own in (0.0, 0.03, 0.39):
            noisy = (1 - own) * latents + own * first
            got = noised_on(noisy, second, torch.tensor([[own]]), torch.tensor(level))
            noise = got - (1 - level) * latents
            assert noise.std().item() == pytest.approx(level, rel=0.01)
            assert torch.corrcoef(torch.cat([noise, latents]))[0, 1].abs() < 0.01
        for own in (level, 1.0):
            assert torch.equal(noised_on(latents, second, torch.tensor([[own]]), torch.tensor(level)), latents)


def test_samples_of_a_pack_are_made_as_one_by_one(ours: VideoPipeline) -> None:
    """Each is shown the same noise, and its own text filled up with zeros."""
    asked, both, calls = window(ours, FRAMES), prompts(ours), seen_by(ours.transformer.high)
    config = SamplingConfig(num_inference_steps=3)
    noise = torch.randn(2, 4, 3, 4, 6, generator=seeded(2))
    with torch.no_grad():
        together = sample_window(
            ours.transformer, ours.scheduler, asked, both, config, [seeded(0), seeded(1)], noise=noise
        )
        alone = []
        for n in range(2):
            texts = (PROMPTS[n : n + 1], [NEGATIVE])
            one = Prompts(*(part for of in texts for part in encode_prompts(ours.tokenizer, ours.text_encoder, of)))
            part = Window(asked.latents[n : n + 1], asked.known, asked.times, asked.one_frame)
            given = (part, one, config, seeded(n))
            alone.append(sample_window(ours.transformer, ours.scheduler, *given, noise=noise[n : n + 1]))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    text = calls[0]["text"]
    assert text.shape == (4, 512, 16)
    assert text[1, 2:].abs().max() == 0  # "x" and its end
    assert text[1, :2].abs().min() > 0


def test_given_video_comes_back_untouched(ours: VideoPipeline, video: Tensor) -> None:
    """In all modes about one, each over several windows."""
    options: dict[str, Any] = {"prompt": "a dog", "num_inference_steps": 2, "generator": seeded(0), "output_type": "np"}

    def levels(output: Any) -> np.ndarray:
        return (output.frames[0] * 255).round().astype(np.uint8)

    for direction, places in {"forward": [0], "backward": [-14], "both": [28]}.items():
        longer = levels(ours.extend(video, direction, 28 / 16, **options))
        assert len(longer) == (70 if direction == "both" else 42)
        start = places[0] % len(longer)
        assert np.array_equal(longer[start : start + 14], video.numpy())
    joined = levels(ours.connect(video, video.flip(0), 1.0, **options))
    assert np.array_equal(joined[:14], video.numpy())
    assert np.array_equal(joined[-14:], video.flip(0).numpy())
    closed = levels(ours.loop(video, 1.0, **options))
    assert np.array_equal(closed[:14], video.numpy())
    assert len(closed) == len(joined) - 14


def test_videos_are_edited(ours: VideoPipeline, video: Tensor) -> None:
    """The same window, with known tokens or begun below level 1."""
    options: dict[str, Any] = {"prompt": "a dog", "num_inference_steps": 4, "generator": seeded(0)}

    def levels(output: Any) -> np.ndarray:
        return (output.frames[0] * 255).round().astype(np.uint8)

    left = torch.zeros(14, 32, 48, dtype=torch.bool)
    left[:, :, :16] = True
    inpainted = levels(ours.inpaint(video, left, **options))
    assert np.array_equal(inpainted[:, :, 16:], video[:, :, 16:].numpy())
    assert not np.array_equal(inpainted[:, :, :16], video[:, :, :16].numpy())
    around = levels(ours.uncrop(video, 32, 80, **options))
    assert np.array_equal(around[:, :, 16:64], video.numpy())
    changes = [
        np.abs(levels(ours.edit(video, share, **options)) / 255 - video.numpy() / 255).mean() for share in (0, 1)
    ]
    between = levels(ours.edit(video, 0.25, **options))
    assert changes[0] < np.abs(between / 255 - video.numpy() / 255).mean() < changes[1]
    told = {"source_prompt": "a dog", "guidance_scale": 1.0, **options}
    same, other = (levels(ours.edit(video, 0.75, **(told | {"prompt": prompt}))) for prompt in ("a dog", "a cat"))
    kept = levels(ours.edit(video, 0.0, **options))
    assert np.array_equal(same, kept) and not np.array_equal(other, kept)
    output: Any = ours.interpolate(video[:13], video[1:], **options)
    assert output.frames.shape == (1, 13, 32, 48, 3)


def test_guidance_is_by_default_that_of_their_pipeline_where_something_is_known_too(
    ours: VideoPipeline, video: Tensor
) -> None:
    made = []
    for scale in (None, 5.0, 1.5):
        output: Any = ours.extend(video, seconds=0.5, num_inference_steps=2, guidance_scale=scale, generator=seeded(0))
        made.append(output.frames)
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_what_it_cannot_do_is_said_before_anything_is_made(ours: VideoPipeline, video: Tensor) -> None:
    settings: dict[str, Any] = {"num_frames": 33, "height": 32, "width": 48, "num_inference_steps": 2}
    calls = seen_by(ours.transformer.high)
    with pytest.raises(ValueError, match="keyframe at 1 s: this model takes a picture as the first frame alone, at 0"):
        ours("x", keyframes=[(0, video[0]), (1, video[1])], **settings)
    with pytest.raises(ValueError, match=r"history_guidance=1\.5 must be 1: this model is told one noise level"):
        ours.extend(video, history_guidance=1.5)
    assert not calls
    output: Any = ours("x", keyframes=[(0, video[0])], **settings)
    assert np.array_equal((output.frames[0, 0] * 255).round(), video[0].numpy())
