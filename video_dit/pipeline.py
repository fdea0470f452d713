"""`VideoPipeline`: the one place where text, transformer, codec and scheduler meet."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from einops import rearrange
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.transforms import to_float
from vae3d import LatentCodec
from vae3d.interop import Autoencoder
from video_dit.model import VideoDiT
from video_dit.rollout import roll_backward, roll_forward, window_sizes
from video_dit.sampling import Generators, Prompts, SamplingConfig, Window, sample_window
from video_dit.schedulers import check_scheduler, check_steps, noise_facts
from video_dit.text import encode_prompts

OUTPUT_TYPES = ("np", "pt", "pil", "latent")
SEAM_SECONDS = 0.5
PIPELINE_FILE = "from video_dit.pipeline import VideoPipeline  # noqa: F401\n"


@dataclass
class VideoPipelineOutput(BaseOutput):
    """frames: by output type, "np" ``(b, t, h, w, c)`` in [0, 1], "pt" ``(b, t, c, h, w)`` in [0, 1], "pil" a list of
    lists of images, "latent" ``(b, c, t, h, w)`` normalised."""

    frames: np.ndarray | Tensor | list[list[Image.Image]]


class VideoPipeline(DiffusionPipeline):
    """Text to video, and longer versions of given video, forward and backward in time.

    A saved pipeline is a diffusers folder, read with ``VideoPipeline.from_pretrained(folder)``.

    Args:
        transformer, vae, text_encoder, tokenizer, scheduler: the parts. The VAE is one that `LatentCodec` understands.
            The scheduler says what path and prediction the transformer was trained with (see `noise_facts`); one that
            takes its place later must agree, as ``DDPMScheduler.from_config(pipe.scheduler.config)`` does.
    """

    transformer: VideoDiT
    vae: Autoencoder
    text_encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scheduler: SchedulerMixin

    def __init__(
        self,
        transformer: VideoDiT,
        vae: Autoencoder,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        self.codec = LatentCodec(vae)
        self.noise = noise_facts(scheduler)

    @property
    def grid(self) -> int:
        """Height and width of videos are multiples of this many pixels."""
        return self.codec.grid * self.transformer.config.patch_size

    @property
    def frame_rate(self) -> float:
        """Frames a second that the model was trained on most."""
        return self.transformer.config.frame_rate

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the clips it was trained on, the usual first."""
        return [(h, w) for h, w in self.transformer.config.sample_sizes]

    @property
    def window(self) -> int:
        """The most latent frames that are made together; longer videos are made window after window."""
        return self.transformer.config.sample_latent_frames

    def window_at(self, frame_rate: float) -> int:
        """`window`, or fewer latent frames where that many would span more time than the model was trained on."""
        return min(self.window, 1 + max(1, int((self.window - 1) * frame_rate / self.frame_rate)))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the diffusers folder, safetensors only, with the file that lets
        ``DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)`` find this class.
        """
        super().save_pretrained(save_directory, **kwargs)
        (Path(save_directory) / "pipeline.py").write_text(PIPELINE_FILE)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        frame_rate: float | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 4.0,
        negative_prompt: str | list[str] = "",
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        output_type: str = "np",
        context_seconds: float | None = None,
        context_level: float = 0.03,
        callback_on_step_end: Callable[[DiffusionPipeline, int, Tensor, dict], dict] | None = None,
        return_dict: bool = True,
    ) -> VideoPipelineOutput | Any:
        """Make videos from text.

        Args:
            prompt: one, or one a video.
            num_frames: 1 + r·k; default: the trained window. Longer ones are made window after window.
            height, width: pixels, multiples of `grid`; default: the size trained on most.
            frame_rate: frames a second; default: the rate trained on most.
            num_inference_steps, guidance_scale, context_level: see `SamplingConfig`.
            negative_prompt: what guidance leads away from; the empty text by default.
            num_videos_per_prompt: videos of each prompt.
            generator: one for all videos, or one each.
            output_type: "np", "pt", "pil" or "latent" (see `VideoPipelineOutput`).
            context_seconds: of the video so far that later windows see; default: half a window.
            callback_on_step_end: called with (pipeline, step, timestep, {"latents": tokens being made}) after
                each step; returns a dict that may hold other "latents".
            return_dict: False returns a tuple.
        Raises:
            ValueError: an argument is out of its range; the message names the value, the rule and a fix.
        """
        default_height, default_width = self.sizes[0]
        height = default_height if height is None else height
        width = default_width if width is None else width
        rate = self.frame_rate if frame_rate is None else frame_rate
        r, _ = self.codec.frame_rule
        num_frames = 1 + r * (self.window - 1) if num_frames is None else num_frames
        self.check_size(height, width)
        self._check_common(rate, output_type, num_videos_per_prompt)
        count = self.codec.num_latent_frames(num_frames)
        context = self.context_frames(context_seconds, rate)
        prompts = [p for p in ([prompt] if isinstance(prompt, str) else prompt) for _ in range(num_videos_per_prompt)]
        if not prompts:
            raise ValueError("prompt=[] must hold at least one text")

        config = SamplingConfig(num_inference_steps, guidance_scale, context_level)
        grid = self.codec.grid
        shape = (len(prompts), self.codec.latent_channels, 0, height // grid, width // grid)
        nothing = torch.zeros(shape, device=self._execution_device)
        window = self.window_at(rate)
        windows = len(window_sizes(count, window, context, 0))
        with self.progress_bar(total=windows * num_inference_steps) as bar:
            make = self._window_maker(prompts, negative_prompt, config, generator, callback_on_step_end, bar)
            chunks = list(roll_forward(make, nothing, True, count, window, context, rate, r))
        latents = torch.cat(chunks, dim=2)
        frames = latents if output_type == "latent" else self._decode(iter(chunks))
        self.maybe_free_model_hooks()
        return self._output(frames, output_type, return_dict)

    @torch.no_grad()
    def extend(
        self,
        frames: Tensor | np.ndarray,
        direction: str = "forward",
        seconds: float = 4.0,
        prompt: str = "",
        frame_rate: float | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 4.0,
        negative_prompt: str = "",
        generator: Generators = None,
        output_type: str = "np",
        context_seconds: float | None = None,
        context_level: float = 0.03,
        callback_on_step_end: Callable[[DiffusionPipeline, int, Tensor, dict], dict] | None = None,
        return_dict: bool = True,
    ) -> VideoPipelineOutput | Any:
        """Continue a video after its end, or make what came before its start.

        The given frames come back untouched, with ``r·max(1, round(seconds · frame_rate / r))`` new ones.

        Args:
            frames: uint8 ``(t, h, w, 3)``, height and width multiples of `grid`, more than ``r`` frames.
            direction: "forward" or "backward".
            seconds: to add, above 0.
            prompt: what the video shows.
            frame_rate: of ``frames``; default: the model's.
            context_seconds: of the video that the model sees; default: half a window.

        The other arguments are those of `__call__`; output "latent" is not offered, since given frames have none.

        Returns:
            The whole video in order of time, one sample.
        Raises:
            ValueError: an argument is out of its range.
        """
        given = torch.as_tensor(frames)
        rate = self.frame_rate if frame_rate is None else frame_rate
        r, _ = self.codec.frame_rule
        if direction not in ("forward", "backward"):
            raise ValueError(f"direction={direction!r} must be 'forward' or 'backward'")
        if not 0 < seconds < float("inf"):
            raise ValueError(f"seconds={seconds} must be above 0")
        if given.dtype != torch.uint8 or given.ndim != 4 or given.shape[3] != 3:
            raise ValueError(f"frames of {given.dtype} {tuple(given.shape)} must be uint8 (t, h, w, 3)")
        if given.shape[0] < 1 + r:
            raise ValueError(
                f"the video has {given.shape[0]} frames at {rate:g} a second and must have at least {1 + r}: "
                "give a longer one, or a higher frame_rate"
            )
        self.check_size(given.shape[1], given.shape[2])
        self._check_common(rate, output_type, 1)
        if output_type == "latent":
            raise ValueError("output_type='latent' is not offered here: use 'np', 'pt' or 'pil'")
        count = max(1, round(seconds * rate / r))
        context = self.context_frames(context_seconds, rate)

        config = SamplingConfig(num_inference_steps, guidance_scale, context_level)
        usable = given.shape[0] - (given.shape[0] - 1) % r  # the longest 1 + r·k
        forward = direction == "forward"
        pixels = to_float(given[given.shape[0] - usable :] if forward else given[:usable])[None]
        latents = self.codec.encode(pixels.to(self._execution_device))
        total = count if forward else 1 + count  # backward makes the one-frame latent of the longer clip as well
        known = latents if forward else latents[:, :, 1:]
        window = self.window_at(rate)
        windows = len(window_sizes(total, window, context, known.shape[2]))
        with self.progress_bar(total=windows * num_inference_steps) as bar:
            make = self._window_maker([prompt], negative_prompt, config, generator, callback_on_step_end, bar)
            if forward:
                chunks = list(roll_forward(make, known, True, total, window, context, rate, r))
            else:
                chunks = [roll_backward(make, known, total, window, context, rate, r)]
        if forward:
            decoded = self._decode(iter([latents, *chunks]))
            made, at_seam = decoded[:, :, usable:], decoded[:, :, usable - 1]
            made = fade_residual(made, pixels[:, :, -1] - at_seam.cpu(), rate)
        else:
            decoded = self._decode(iter(chunks))
            made, at_seam = decoded[:, :, :-1], decoded[:, :, -1]
            made = fade_residual(made.flip(2), pixels[:, :, 0] - at_seam.cpu(), rate).flip(2)
        original = to_float(given)[None]
        parts = [original, made.cpu()] if forward else [made.cpu(), original]
        self.maybe_free_model_hooks()
        return self._output(torch.cat(parts, dim=2), output_type, return_dict)

    def context_frames(self, seconds: float | None, frame_rate: float) -> int:
        """Latent frames of context: ``seconds`` of video, or half a window.

        Raises:
            ValueError: it would leave no latent frame of the window to be made.
        """
        window = self.window_at(frame_rate)
        if seconds is None:
            return max(1, window // 2)
        r, _ = self.codec.frame_rule
        longest = (window - 1) * r / frame_rate
        if not 0 < seconds <= longest:
            raise ValueError(f"context_seconds={seconds} must be above 0 and at most {longest:g}, a window less a step")
        return max(1, min(window - 1, round(seconds * frame_rate / r)))

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError unless both are multiples of `grid`."""
        for name, size in (("height", height), ("width", width)):
            if size < self.grid or size % self.grid:
                lower = max(self.grid, size // self.grid * self.grid)
                raise ValueError(f"{name}={size} must be a multiple of {self.grid}: use {lower} or {lower + self.grid}")

    def _check_common(self, frame_rate: float, output_type: str, num_videos: int) -> None:
        if not 0 < frame_rate < float("inf"):
            raise ValueError(f"frame_rate={frame_rate} must be above 0")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type={output_type!r} must be one of {', '.join(OUTPUT_TYPES)}")
        if num_videos < 1:
            raise ValueError(f"num_videos_per_prompt={num_videos} must be at least 1")

    def _window_maker(
        self,
        prompts: list[str],
        negative_prompt: str | list[str],
        config: SamplingConfig,
        generator: Generators,
        callback: Callable[[DiffusionPipeline, int, Tensor, dict], dict] | None,
        bar: Any,
    ) -> Callable[[Window], Tensor]:
        """What denoises a window under these prompts; the text is encoded once."""
        check_scheduler(self.scheduler, self.noise)
        check_steps(self.scheduler, config.num_inference_steps)
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
        if len(negatives) != len(prompts):
            raise ValueError(f"negative_prompt has {len(negatives)} texts and must have one, or {len(prompts)}")
        if isinstance(generator, list) and len(generator) not in (1, len(prompts)):
            raise ValueError(f"generator has {len(generator)} entries and must have one, or {len(prompts)}")
        embeds, segments = encode_prompts(self.tokenizer, self.text_encoder, prompts)
        guided = Prompts(embeds, segments)
        if config.guidance_scale != 1:
            guided = Prompts(embeds, segments, *encode_prompts(self.tokenizer, self.text_encoder, negatives))

        def on_step(number: int, timestep: Tensor, tokens: Tensor) -> Tensor:
            bar.update()
            if callback is None:
                return tokens
            return callback(self, number, timestep, {"latents": tokens}).get("latents", tokens)

        def make(window: Window) -> Tensor:
            return sample_window(self.transformer, self.scheduler, window, guided, config, generator, on_step)

        return make

    def _decode(self, chunks: Iterator[Tensor]) -> Tensor:
        """Latents of one clip in pieces to frames ``(b, 3, t, h, w)`` in [-1, 1], as one stream."""
        stream = self.codec.decode_stream()
        frames = [stream.push(chunk) for chunk in chunks]
        return torch.cat([*frames, stream.finish()], dim=2)

    def _output(self, frames: Tensor, output_type: str, return_dict: bool) -> VideoPipelineOutput | Any:
        result: np.ndarray | Tensor | list[list[Image.Image]] = frames
        if output_type != "latent":
            unit = rearrange((frames.float() + 1) / 2, "b c t h w -> b t c h w").clamp(0, 1)
            result = unit
            if output_type != "pt":
                array = rearrange(unit, "b t c h w -> b t h w c").cpu().numpy()
                result = array
                if output_type == "pil":
                    levels = (array * 255).round().astype(np.uint8)
                    result = [[Image.fromarray(frame) for frame in clip] for clip in levels]
        return VideoPipelineOutput(frames=result) if return_dict else (result,)


def fade_residual(frames: Tensor, residual: Tensor, frame_rate: float) -> Tensor:
    """Add the low-pass part of ``residual (b, c, h, w)`` to frames ``(b, c, t, h, w)``, fading out over half a second.

    It is what the codec lost of the boundary frame: without it, brightness and tint jump at the seam. Only the
    low-pass part (sigma: an eighth of the short side), since details would stay behind as ghosts.
    """
    low = low_pass(residual.to(frames), min(frames.shape[3:]) / 8)
    steps = torch.arange(1, frames.shape[2] + 1, device=frames.device, dtype=frames.dtype)
    weight = (1 - steps / (SEAM_SECONDS * frame_rate + 1)).clamp_min(0).view(-1, 1, 1)
    return (frames + weight * low[:, :, None]).clamp(-1, 1)


def low_pass(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``(b, c, h, w)`` with edges repeated; sigma in pixels."""
    radius = int(3 * sigma) + 1
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = kernel / kernel.sum()
    b = images.shape[0]
    flat = rearrange(images, "b c h w -> (b c) 1 h w")
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    return rearrange(flat, "(b c) 1 h w -> b c h w", b=b)


def check_model_folder(folder: str | Path) -> None:
    """Raises ValueError, naming what is missing, unless ``folder`` holds a whole `VideoPipeline`."""
    folder = Path(folder)
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} is no model folder: it has no model_index.json; give one that train.py wrote")
    try:
        parts = [name for name, value in dict(json.loads(index.read_text())).items() if isinstance(value, list)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{index} is damaged ({error}): copy the folder again") from None
    weighted = {"transformer", "vae", "text_encoder"}
    for part in sorted({*parts, *weighted, "tokenizer", "scheduler"}):
        inside = folder / part
        if not any(inside.glob("*.json")) or (part in weighted and not any(inside.glob("*.safetensors"))):
            raise ValueError(f"{folder} lacks {part}/: the model was not saved whole; train.py writes all parts")
