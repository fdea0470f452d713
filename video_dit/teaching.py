"""Pictures that explain the path of DDPM to who learns about it: the way to noise, and the ways back.

They are of single frames, and written where ``noise.pictures`` asks for them.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from data.dataset import ClipSource
from data.sheet import write_rows
from data.transforms import to_float, to_uint8
from vae3d import LatentCodec
from video_dit.continuation import readable_clips
from video_dit.noise import NUM_TRAIN_TIMESTEPS, NoiseConfig, add_noise, path_alphas_cumprod
from video_dit.pipeline import VideoPipeline
from video_dit.stopping import Stop

CLIPS = 4
LEVELS = 11
SEEDS = 4
GUIDANCE_SCALE = 2.0  # with 4 the pictures of a short run with epsilons turn white
WAYS_BACK = ((DDPMScheduler, NUM_TRAIN_TIMESTEPS), (DDIMScheduler, 50))


def write_explanation(
    pipe: VideoPipeline,
    source: ClipSource,
    prompts: Sequence[str],
    noise: NoiseConfig,
    run_dir: Path,
    step: int,
    stop: Stop,
) -> None:
    """``forward.png``: pictures of the first clips that can be read, on their way to noise.
    ``samples/step-N-ddpm.png``: of prompts, made by DDPM in all of its timesteps and by DDIM in 50, both from the same
    noise.

    Raises:
        StoppedError: it was asked to end.
    """
    folder = run_dir / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    timesteps = ", ".join(str(round(float(level) * NUM_TRAIN_TIMESTEPS) - 1) for level in path_levels()[1:])
    strips = []
    for index, clip in islice(readable_clips(source), CLIPS):
        strip = forward_process(pipe.codec, clip.frames[:1], noise)
        strips.append((f"clean, then timesteps {timesteps}, {noise.schedule}: {source.text(index, 0)}", strip))
    if strips:
        write_rows(run_dir / "forward.png", strips, LEVELS)
    if prompts:
        ways = {
            f"{SEEDS} by {scheduler.__name__.removesuffix('Scheduler')} in {steps} steps": samples(
                pipe, scheduler, steps, prompts, stop
            )
            for scheduler, steps in WAYS_BACK
        }
        rows = [
            (f"{', '.join(ways)}: {prompt}", torch.cat(pictures))
            for prompt, *pictures in zip(prompts, *ways.values(), strict=True)
        ]
        write_rows(folder / f"step-{step:07d}-ddpm.png", rows, SEEDS * len(ways))


def path_levels() -> Tensor:
    """Levels from clean to noise that are shown, ``(LEVELS,)``."""
    return torch.linspace(0, 1, LEVELS)


@torch.no_grad()
def forward_process(codec: LatentCodec, frames: Tensor, noise: NoiseConfig) -> Tensor:
    """One frame, uint8 ``(1, h, w, 3)``, with the same noise at all `path_levels`, decoded: ``(LEVELS, h, w, 3)``."""
    latents = codec.encode(to_float(frames)[None]).float().cpu()  # 1 c 1 h w
    drawn = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy = add_noise(latents, drawn, path_levels().view(-1, 1, 1, 1, 1), path_alphas_cumprod(noise))
    return to_uint8(codec.decode(noisy).float().cpu()[:, :, 0].movedim(1, 0))  # c t h w


def samples(pipe: VideoPipeline, scheduler: Any, steps: int, prompts: Sequence[str], stop: Stop) -> list[Tensor]:
    """Pictures ``(SEEDS, h, w, 3)`` of each prompt, always from the same seeds; ``scheduler`` is its class."""
    given: Any = pipe.scheduler
    other = VideoPipeline(**(pipe.components | {"scheduler": scheduler.from_config(given.config)}))
    other.set_progress_bar_config(disable=True)
    seeds = list(range(SEEDS)) * len(prompts)
    output: Any = other(
        prompt=list(prompts),
        num_frames=1,
        num_videos_per_prompt=SEEDS,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE_SCALE,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
        callback_on_step_end=stop.on_step_end,
    )
    pictures = torch.from_numpy(output.frames[:, 0]).mul(255).round().to(torch.uint8)
    return list(pictures.split(SEEDS))
