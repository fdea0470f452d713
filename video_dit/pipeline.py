"""`VideoPipeline`: the one place where text, transformer, codec and scheduler meet."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vae3d import LatentCodec
from vae3d.interop import Autoencoder
from video_dit.denoising import given_prompts, prompts_at, window_denoiser
from video_dit.model import VideoDiT
from video_dit.model_folder import PIPELINE_FILE
from video_dit.output import VideoPipelineOutput, check_output_type, to_output
from video_dit.pieces import Maker, count_windows, pieces, text_latents
from video_dit.request import Keyframe, Piece, PromptSchedule, VideoRequest, given_request
from video_dit.sampling import Generators, SamplingConfig, num_calls
from video_dit.schedulers import check_scheduler, check_steps, noise_facts
from video_dit.text import encode_prompts, pad_embeds

Callback = Callable[[DiffusionPipeline, int, Tensor, dict], dict]
"""Called with (pipeline, step, timestep, {"latents": tokens being made}) after each step; returns a dict that may hold
other "latents"."""
Picture = Tensor | np.ndarray
"""uint8 ``(h, w, 3)``, or what ``np.asarray`` makes such of, as of an image of PIL."""


class VideoPipeline(DiffusionPipeline):
    """Text to video; given video continued, connected and closed to loops.

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

    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        frame_rate: float | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] = "",
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        output_type: str = "np",
        image: Picture | None = None,
        keyframes: Sequence[tuple[float, Picture]] = (),
        context_seconds: float | None = None,
        context_level: float = 0.03,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        history_guidance: float = 1.0,
        step_cache: float = 0.0,
        callback_on_step_end: Callback | None = None,
        return_dict: bool = True,
    ) -> VideoPipelineOutput | Any:
        """Make videos from text, and from pictures that they pass through.

        Args:
            prompt: one, or one a video; ``"0: … | 20: …"`` changes it at these seconds (see `PromptSchedule`).
            num_frames: 1 + r·k; default: the trained window. Longer ones are made window after window.
            height, width: pixels, multiples of `grid`; default: the size trained on most.
            frame_rate: frames a second; default: the rate trained on most.
            num_inference_steps, guidance_scale, context_level, guidance_interval, history_guidance, step_cache: see
                `SamplingConfig`.
            negative_prompt: what guidance leads away from; the empty text by default.
            num_videos_per_prompt: videos of each prompt.
            generator: one for all videos, or one each.
            latents: the noise to begin from, ``(b, c, 1 + k, h', w')``, instead of the generator's.
            prompt_embeds, prompt_attention_mask: of `encode_prompt`, in place of a prompt; negative ones likewise.
            output_type: "np", "pt", "pil" or "latent" (see `VideoPipelineOutput`).
            image: the first frame, of the video's size. keyframes: pairs of seconds and such a picture. The frames at
                these times are these pictures.
            context_seconds: of the video so far that later windows see; default: half a window.
            callback_on_step_end: see `Callback`.
            return_dict: False returns a tuple.
        Raises:
            ValueError: an argument is out of its range; the message names the value, the rule and a fix.
        """
        check_output_type(output_type)
        if num_videos_per_prompt < 1:
            raise ValueError(f"num_videos_per_prompt={num_videos_per_prompt} must be at least 1")
        if (prompt is None) == (prompt_embeds is None):
            raise ValueError("prompt and prompt_embeds exclude each other: give one")
        texts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        encoded = None
        if prompt_embeds is not None:
            texts = [""] * len(prompt_embeds)
            positive = prompt_embeds, prompt_attention_mask
            negative = negative_prompt_embeds, negative_prompt_attention_mask
            encoded = given_prompts(*positive, *negative, self.transformer.config.text_dim, num_videos_per_prompt)
        elif negative_prompt_embeds is not None:
            raise ValueError("negative_prompt_embeds go with prompt_embeds: give these as well, or negative_prompt")
        negatives = [negative_prompt] * len(texts) if isinstance(negative_prompt, str) else list(negative_prompt)
        if len(negatives) != len(texts):
            raise ValueError(f"negative_prompt has {len(negatives)} texts: give one text, or a list of {len(texts)}")
        texts, negatives = ([text for text in of for _ in range(num_videos_per_prompt)] for of in (texts, negatives))
        pictures = [*([] if image is None else [(0.0, image)]), *keyframes]
        r, (default_height, default_width) = self.codec.frame_rule[0], self.sizes[0]
        request = VideoRequest(
            "text",
            tuple(PromptSchedule.parse(text) for text in texts),
            tuple(negatives),
            self.frame_rate if frame_rate is None else frame_rate,
            SamplingConfig(
                num_inference_steps, guidance_scale, context_level, guidance_interval, history_guidance, step_cache
            ),
            context_seconds,
            generator,
            num_frames=1 + r * (self.window - 1) if num_frames is None else num_frames,
            height=default_height if height is None else height,
            width=default_width if width is None else width,
            keyframes=tuple(Keyframe(seconds, _as_tensor(one)) for seconds, one in pictures),
            latents=latents,
            encoded=encoded,
        )
        if output_type != "latent":
            return self._finished(self.stream(request, callback_on_step_end), output_type, return_dict)
        with torch.no_grad(), self._bar(request, self._check(request)) as bar:
            chunks = list(text_latents(request, self._maker(request, callback_on_step_end, bar)))
        self.maybe_free_model_hooks()
        made = torch.cat(chunks, dim=2)
        return VideoPipelineOutput(frames=made) if return_dict else (made,)

    def extend(
        self,
        frames: Tensor | np.ndarray,
        direction: str = "forward",
        seconds: float = 4.0,
        prompt: str = "",
        frame_rate: float | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        generator: Generators = None,
        output_type: str = "np",
        context_seconds: float | None = None,
        context_level: float = 0.03,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        history_guidance: float = 1.0,
        step_cache: float = 0.0,
        callback_on_step_end: Callback | None = None,
        return_dict: bool = True,
    ) -> VideoPipelineOutput | Any:
        """Continue a video after its end, or make what came before its start, or both.

        The given frames come back untouched, with ``r·max(1, round(seconds · frame_rate / r))`` new ones on each side
        that is made.

        Args:
            frames: uint8 ``(t, h, w, 3)``, height and width multiples of `grid`, more than ``r`` frames.
            direction: "forward", "backward" or "both".
            seconds: to add, above 0.
            prompt: what the video shows; a schedule counts from the start of the whole video.
            frame_rate: of ``frames``; default: the model's.
            context_seconds: of the video that the model sees; default: half a window.

        The other arguments are those of `__call__`; output "latent" is not offered, since given frames have none.

        Returns:
            The whole video in order of time, one sample.
        Raises:
            ValueError: an argument is out of its range.
        """
        if direction not in ("forward", "backward", "both"):
            raise ValueError(f"direction={direction!r} must be 'forward', 'backward' or 'both'")
        config = SamplingConfig(
            num_inference_steps, guidance_scale, context_level, guidance_interval, history_guidance, step_cache
        )
        rate = self.frame_rate if frame_rate is None else frame_rate
        settings = seconds, prompt, negative_prompt, rate, config, context_seconds, generator
        request = given_request(direction, frames, None, *settings)  # type: ignore[arg-type]  # checked above
        return self._finished(self.stream(request, callback_on_step_end), output_type, return_dict)

    def connect(
        self,
        first: Tensor | np.ndarray,
        second: Tensor | np.ndarray,
        seconds: float = 4.0,
        prompt: str = "",
        frame_rate: float | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        generator: Generators = None,
        output_type: str = "np",
        context_seconds: float | None = None,
        context_level: float = 0.03,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        history_guidance: float = 1.0,
        step_cache: float = 0.0,
        callback_on_step_end: Callback | None = None,
        return_dict: bool = True,
    ) -> VideoPipelineOutput | Any:
        """Make what leads from one video to another of the same size.

        Both come back untouched, with ``r·j − 1`` new frames between them, j the nearest to ``seconds`` and at least 1.
        Arguments are those of `extend`.
        """
        config = SamplingConfig(
            num_inference_steps, guidance_scale, context_level, guidance_interval, history_guidance, step_cache
        )
        rate = self.frame_rate if frame_rate is None else frame_rate
        settings = seconds, prompt, negative_prompt, rate, config, context_seconds, generator
        request = given_request("connect", first, second, *settings)
        return self._finished(self.stream(request, callback_on_step_end), output_type, return_dict)

    def loop(
        self,
        frames: Tensor | np.ndarray,
        seconds: float = 4.0,
        prompt: str = "",
        frame_rate: float | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        generator: Generators = None,
        output_type: str = "np",
        context_seconds: float | None = None,
        context_level: float = 0.03,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        history_guidance: float = 1.0,
        step_cache: float = 0.0,
        callback_on_step_end: Callback | None = None,
        return_dict: bool = True,
    ) -> VideoPipelineOutput | Any:
        """Make what leads from the end of a video back to its start, so that it can be shown over and over.

        It comes back untouched, with ``r·j − 1`` new frames after it, the last of which runs into its first. Arguments
        are those of `extend`.
        """
        config = SamplingConfig(
            num_inference_steps, guidance_scale, context_level, guidance_interval, history_guidance, step_cache
        )
        rate = self.frame_rate if frame_rate is None else frame_rate
        settings = seconds, prompt, negative_prompt, rate, config, context_seconds, generator
        request = given_request("loop", frames, None, *settings)
        return self._finished(self.stream(request, callback_on_step_end), output_type, return_dict)

    def stream(self, request: VideoRequest, callback_on_step_end: Callback | None = None) -> Iterator[Piece]:
        """The frames of a request in order of time, each piece as soon as it is made. Those that were given are not
        held; of what is made, a window's are, and half a second before a picture.

        What came before a given video is made from its start on: all its latents are there before any of its frames.

        Raises:
            ValueError: the request does not fit the model; raised here, before anything is made.
        """
        return self._stream(request, self._check(request), callback_on_step_end)

    def encode_prompt(self, prompt: str | list[str]) -> tuple[Tensor, Tensor]:
        """Embeddings ``(b, m, d_text)`` and mask ``(b, m)`` for ``prompt_embeds`` and ``prompt_attention_mask``."""
        texts = [prompt] if isinstance(prompt, str) else prompt
        with torch.no_grad():
            return pad_embeds(*encode_prompts(self.tokenizer, self.text_encoder, texts))

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

    def _check(self, request: VideoRequest) -> int:
        """How many windows there are to make; ValueError where the model cannot make what is asked."""
        check_scheduler(self.scheduler, self.noise)
        check_steps(self.scheduler, request.sampling.num_inference_steps)
        if request.mode == "text":
            self.check_size(request.height, request.width)
            count = self.codec.num_latent_frames(request.num_frames)
            grid, channels = self.codec.grid, self.codec.latent_channels
            shape = len(request.prompts), channels, count, request.height // grid, request.width // grid
            if request.latents is not None and request.latents.shape != shape:
                raise ValueError(f"latents of {tuple(request.latents.shape)} must be of {shape}")
            if request.latents is not None and not bool(request.latents.isfinite().all()):
                raise ValueError("latents hold values that are not finite: give normal noise")
        else:
            assert request.video is not None
            self.check_size(*request.video.shape[1:3])
        context = self.context_frames(request.context_seconds, request.frame_rate)
        return count_windows(request, self.window_at(request.frame_rate), context, self.codec.frame_rule[0])

    def _bar(self, request: VideoRequest, windows: int) -> Any:
        return self.progress_bar(total=windows * num_calls(self.scheduler, request.sampling.num_inference_steps))

    @torch.no_grad()
    def _stream(self, request: VideoRequest, windows: int, callback: Callback | None) -> Iterator[Piece]:
        with self._bar(request, windows) as bar:
            yield from pieces(request, self._maker(request, callback, bar))
        self.maybe_free_model_hooks()

    def _maker(self, request: VideoRequest, callback: Callback | None, bar: Any) -> Maker:
        rate, r = request.frame_rate, self.codec.frame_rule[0]
        prompts = prompts_at(request, self.tokenizer, self.text_encoder)

        def on_step(number: int, timestep: Tensor, tokens: Tensor) -> Tensor:
            bar.update()
            if callback is None:
                return tokens
            return callback(self, number, timestep, {"latents": tokens}).get("latents", tokens)

        denoise = window_denoiser(request, self.transformer, self.scheduler, prompts, r, on_step)
        context = self.context_frames(request.context_seconds, rate)
        return Maker(self.codec, denoise, self.window_at(rate), context, rate, self._execution_device)

    def _finished(self, made: Iterator[Piece], output_type: str, return_dict: bool) -> VideoPipelineOutput | Any:
        check_output_type(output_type)
        if output_type == "latent":
            raise ValueError("output_type='latent' is not offered here: use 'np', 'pt' or 'pil'")
        frames = to_output(torch.cat([piece.frames for piece in made], dim=2), output_type)
        return VideoPipelineOutput(frames=frames) if return_dict else (frames,)


def _as_tensor(picture: Picture) -> Tensor:
    return picture if isinstance(picture, Tensor) else torch.from_numpy(np.array(picture))
