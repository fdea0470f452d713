"""Text to video and longer versions of given video, through a pipeline of small random parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from video_dit import VideoPipeline
from video_dit.model_folder import check_model_folder

QUICK = {"num_inference_steps": 2, "guidance_scale": 2.0}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def video(frames: int, height: int = 32, width: int = 32) -> Tensor:
    """Random uint8 frames ``(t, h, w, 3)`` that hold every value."""
    values = torch.randint(0, 256, (frames, height, width, 3), generator=seeded(3), dtype=torch.uint8)
    values.view(-1)[:256] = torch.arange(256)
    return values


def make(pipe: VideoPipeline, **options: Any) -> Any:
    return pipe(**({"prompt": "a red ball", "generator": seeded(0)} | QUICK | options)).frames


def extend(pipe: VideoPipeline, frames: Tensor, **options: Any) -> Any:
    return pipe.extend(frames, **({"prompt": "a red ball", "generator": seeded(0)} | QUICK | options)).frames


def same_modules(pipe: VideoPipeline, other: VideoPipeline) -> bool:
    parts = ("transformer", "vae", "text_encoder")
    pairs = [(getattr(pipe, name).state_dict(), getattr(other, name).state_dict()) for name in parts]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


def test_saved_and_loaded(tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    tiny_pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    check_model_folder(tmp_path)
    loaded = VideoPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert same_modules(loaded, tiny_pipe)
    assert loaded.tokenizer.model_max_length == tiny_pipe.tokenizer.model_max_length
    assert (loaded.grid, loaded.frame_rate, loaded.window) == (16, 8.0, 5)
    assert loaded.sizes == [(32, 32), (16, 48)]
    assert np.array_equal(make(loaded), make(tiny_pipe))


def test_diffusers_finds_the_class_in_the_folder(
    tiny_pipe: VideoPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    tiny_pipe.save_pretrained(tmp_path / "model")
    folder = str(tmp_path / "model")
    loaded = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    assert isinstance(loaded, VideoPipeline)
    assert same_modules(loaded, tiny_pipe)


def test_output_types(tiny_pipe: VideoPipeline) -> None:
    array = make(tiny_pipe, num_frames=9)
    assert array.shape == (1, 9, 32, 32, 3)
    assert array.dtype == np.float32
    assert 0 <= array.min() < array.max() <= 1
    tensor = make(tiny_pipe, num_frames=9, output_type="pt")
    assert tensor.shape == (1, 9, 3, 32, 32)
    assert np.array_equal(tensor.movedim(2, 4).numpy(), array)
    images = make(tiny_pipe, num_frames=9, output_type="pil")
    assert [len(clip) for clip in images] == [9]
    assert np.abs(np.asarray(images[0][4]) / 255 - array[0, 4]).max() <= 0.51 / 255
    latents = make(tiny_pipe, num_frames=9, output_type="latent")
    assert latents.shape == (1, 4, 3, 4, 4)
    decoded = (tiny_pipe.codec.decode(latents) + 1) / 2
    assert np.abs(decoded[0].permute(1, 2, 3, 0).numpy() - array[0]).max() < 1e-4
    whole = tiny_pipe(prompt="a", num_frames=5, generator=seeded(0), return_dict=False, **QUICK)
    assert isinstance(whole, tuple)
    assert whole[0].shape == (1, 5, 32, 32, 3)


def test_defaults_are_those_of_training(tiny_pipe: VideoPipeline) -> None:
    assert make(tiny_pipe).shape == (1, 17, 32, 32, 3)
    assert make(tiny_pipe, num_frames=1, height=16, width=48).shape == (1, 1, 16, 48, 3)


def test_long_videos_are_made_window_after_window(tiny_pipe: VideoPipeline) -> None:
    steps: list[int] = []

    def count(pipe: DiffusionPipeline, step: int, timestep: Tensor, values: dict) -> dict:
        steps.append(values["latents"].shape[1] // 4)  # latent frames being made
        return values

    frames = make(tiny_pipe, num_frames=45, callback_on_step_end=count)
    assert frames.shape[1] == 45
    assert steps[::2] == steps[1::2] == [5, 3, 3, 1]  # a window of 5, of which 2 are context
    steps.clear()
    make(tiny_pipe, num_frames=45, context_seconds=0.5, callback_on_step_end=count)
    assert steps[::2] == [5, 4, 3]


def test_the_beginning_does_not_depend_on_the_length(tiny_pipe: VideoPipeline) -> None:
    short, long = (make(tiny_pipe, num_frames=n) for n in (17, 29))
    assert np.abs(short[0] - long[0, :17]).max() < 1e-4


def test_prompts_and_seeds(tiny_pipe: VideoPipeline) -> None:
    batch = make(
        tiny_pipe,
        prompt=["a", "b"],
        num_videos_per_prompt=2,
        num_frames=5,
        generator=[seeded(n) for n in range(4)],
    )
    assert batch.shape[0] == 4
    for n, prompt in enumerate("aabb"):
        alone = make(tiny_pipe, prompt=prompt, num_frames=5, generator=seeded(n))
        assert np.abs(batch[n] - alone[0]).max() < 1e-3
    assert len(np.unique(batch.reshape(4, -1), axis=0)) == 4
    a, b = (make(tiny_pipe, prompt=p, num_frames=5, guidance_scale=1.0) for p in ("a", "b"))
    assert np.abs(a - b).max() > 1e-3
    negative = make(tiny_pipe, num_frames=5, negative_prompt="b")
    assert np.abs(negative - make(tiny_pipe, num_frames=5)).max() > 1e-3


def test_the_callback_may_replace_latents(tiny_pipe: VideoPipeline) -> None:
    seen: list[tuple[int, float]] = []

    def zero(pipe: DiffusionPipeline, step: int, timestep: Tensor, values: dict) -> dict:
        assert pipe is tiny_pipe
        seen.append((step, float(timestep)))
        return {"latents": torch.zeros_like(values["latents"])} if step == 1 else {}

    latents = make(tiny_pipe, output_type="latent", callback_on_step_end=zero)
    assert not latents.any()
    assert [step for step, _ in seen] == [0, 1]
    assert seen[0][1] == pytest.approx(1000)
    assert seen[1][1] < 1000


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    ("frames", "seconds", "new"), [(5, 0.1, 4), (9, 1.0, 8), (11, 1.3, 12), (30, 3.1, 24), (12, 0.7, 4)]
)
def test_given_frames_come_back_untouched(
    tiny_pipe: VideoPipeline, direction: str, frames: int, seconds: float, new: int
) -> None:
    given = video(frames, 16, 48)
    whole = extend(tiny_pipe, given, direction=direction, seconds=seconds)
    assert new == 4 * max(1, round(seconds * 8 / 4))
    assert whole.shape == (1, frames + new, 16, 48, 3)
    kept = whole[0, :frames] if direction == "forward" else whole[0, new:]
    assert np.array_equal((kept * 255).round().astype(np.uint8), given.numpy())
    made = whole[0, frames:] if direction == "forward" else whole[0, :new]
    assert made.std() > 0.01
    assert 0 <= made.min() <= made.max() <= 1


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_model_sees_the_side_that_is_continued(tiny_pipe: VideoPipeline, direction: str) -> None:
    """Frames far from the seam, and those the codec has no room for, do not matter; those at the seam do."""
    given = video(30)  # 29 are encoded; half a window of context is 2 latents, 8 frames
    whole = extend(tiny_pipe, given, direction=direction, seconds=0.5)[0]
    made = slice(30, None) if direction == "forward" else slice(0, 4)
    unused = 0 if direction == "forward" else 29
    at_seam = 29 if direction == "forward" else 0
    for place, matters in ((unused, False), (at_seam, True)):
        changed = given.clone()
        changed[place] = 255 - changed[place]
        again = extend(tiny_pipe, changed, direction=direction, seconds=0.5)[0]
        assert (np.abs(again[made] - whole[made]).max() > 1e-3) == matters


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_output_types_of_a_longer_video(tiny_pipe: VideoPipeline, direction: str) -> None:
    given = video(11)
    options = {"direction": direction, "seconds": 0.5}
    array = extend(tiny_pipe, given.numpy(), **options)
    assert np.array_equal(extend(tiny_pipe, given, **options), array)
    tensor = extend(tiny_pipe, given, output_type="pt", **options)
    assert np.array_equal(tensor.movedim(2, 4).numpy(), array)
    (images,) = extend(tiny_pipe, given, output_type="pil", **options)
    assert len(images) == 15
    place = 0 if direction == "forward" else 4
    assert np.array_equal(np.asarray(images[place]), given[0].numpy())


def test_a_longer_video_goes_through_many_windows(tiny_pipe: VideoPipeline) -> None:
    shapes: list[int] = []

    def count(pipe: DiffusionPipeline, step: int, timestep: Tensor, values: dict) -> dict:
        shapes.append(values["latents"].shape[1] // 4)
        return {}

    extend(tiny_pipe, video(13), seconds=3.5, callback_on_step_end=count)
    assert shapes[::2] == [3, 3, 1]
    shapes.clear()
    extend(tiny_pipe, video(13), direction="backward", seconds=3.5, callback_on_step_end=count)
    assert shapes[::2] == [3, 3, 2]  # and the one-frame latent of the longer clip


@pytest.mark.parametrize("rate", [29.97, 30000 / 1001, 24000 / 1001, 23.976, 8.0])
def test_a_window_at_the_trained_rate_is_the_trained_one(tiny_pipe: VideoPipeline, rate: float) -> None:
    for window in range(2, 64):
        tiny_pipe.transformer.register_to_config(sample_latent_frames=window, frame_rate=rate)
        assert tiny_pipe.window_at(rate) == window


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 40}, "height=40 must be a multiple of 16: use 32 or 48"),
        ({"width": 7}, "width=7 must be a multiple of 16: use 16 or 32"),
        ({"num_frames": 48}, r"num_frames=48 must be 1 \+ 4k: use 45 or 49"),
        ({"num_frames": 0}, r"num_frames=0 must be 1 \+ 4k: use 1 or 5"),
        ({"frame_rate": 0.0}, "frame_rate=0.0 must be above 0"),
        ({"frame_rate": float("nan")}, "frame_rate=nan must be above 0"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be at least 1"),
        ({"guidance_scale": 0.0}, "guidance_scale=0.0 must be 1"),
        ({"output_type": "gif"}, "output_type='gif' must be one of np, pt, pil, latent"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt=0 must be at least 1"),
        ({"prompt": []}, r"prompt=\[\] must hold at least one text"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 texts: give one text, or a list of 1"),
        ({"negative_prompt_embeds": torch.zeros(1, 3, 16)}, "negative_prompt_embeds go with prompt_embeds"),
        ({"latents": torch.full((1, 4, 5, 4, 4), float("nan"))}, "latents hold values that are not finite"),
        ({"prompt": "0: a | 5: b"}, "the prompt 'b' begins at 5 s: the video goes from 0 to 2.125 s"),
        ({"context_seconds": 0.0}, "context_seconds=0.0 must be above 0 and at most 2"),
        ({"context_seconds": 2.5}, "context_seconds=2.5 must be above 0 and at most 2"),
        ({"context_level": 1.0}, r"context_level=1.0 must be in \[0, 1\)"),
        ({"prompt": ["a", "b"], "generator": [seeded(0)] * 3}, "generator has 3 .* must have one, or 2"),
    ],
)
def test_mistakes_are_one_line(tiny_pipe: VideoPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make(tiny_pipe, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (video(9), {"direction": "sideways"}, "direction='sideways' must be 'forward', 'backward' or 'both'"),
        (video(4), {}, "the video has 4 frames at 8 a second and must have at least 5"),
        (video(9)[:0], {}, r"frames of torch.uint8 \(0, 32, 32, 3\) must be uint8 \(t, h, w, 3\), not empty"),
        (video(9), {"seconds": 0}, "seconds=0 must be above 0"),
        (video(9), {"seconds": -1.0}, "seconds=-1.0 must be above 0"),
        (video(9), {"seconds": float("nan")}, "seconds=nan must be above 0"),
        (video(9), {"seconds": float("inf")}, "seconds=inf must be above 0"),
        (video(9, 24), {}, "height=24 must be a multiple of 16: use 16 or 32"),
        (video(9).float(), {}, r"frames of torch.float32 \(9, 32, 32, 3\) must be uint8 \(t, h, w, 3\)"),
        (video(9)[..., 0], {}, r"frames of torch.uint8 \(9, 32, 32\) must be uint8"),
        (
            video(9),
            {"output_type": "latent"},
            "output_type='latent' is not offered here: use 'np', 'pt' or 'pil'",
        ),
        (video(9), {"output_type": "gif"}, "output_type='gif' must be one of"),
        (video(9), {"context_seconds": 3.0}, "context_seconds=3.0 must be above 0 and at most 2"),
        (video(9), {"frame_rate": -8.0}, "frame_rate=-8.0 must be above 0"),
    ],
)
def test_mistakes_with_a_given_video_are_one_line(
    tiny_pipe: VideoPipeline, given: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        extend(tiny_pipe, given, **options)
    assert "\n" not in str(error.value)


def test_context_is_rounded_to_latent_frames(tiny_pipe: VideoPipeline) -> None:
    assert tiny_pipe.context_frames(None, 8.0) == 2
    assert [tiny_pipe.context_frames(s, 8.0) for s in (0.01, 0.5, 0.8, 1.5, 2.0)] == [1, 1, 2, 3, 4]
    assert tiny_pipe.context_frames(1.0, 16.0) == 4
