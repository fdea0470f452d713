"""`VideoPipeline`: the one place where text, transformer, codec and scheduler meet."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vae3d import LatentCodec
from vae3d.interop import Autoencoder
from video_dit.denoising import check_latents, listed_prompts, prompts_at, window_denoiser, window_inverter
from video_dit.editing import uncropped
from video_dit.given import Frames, GivenOptions, SamplingOptions, given_request
from video_dit.inversion import Inversion, inverted, request_from_noise
from video_dit.model import VideoDiT
from video_dit.model_folder import PIPELINE_FILE
from video_dit.noise import slerp
from video_dit.output import InterpolationOutput, VideoPipelineOutput, check_frames_output, check_output_type, to_output
from video_dit.pieces import Maker, check_offered, count_windows, pieces, text_latents
from video_dit.request import Keyframe, Mode, Picture, Piece, PromptSchedule, VideoRequest, check_size
from video_dit.rollout import context_size
from video_dit.sampling import Generators, SamplingConfig, num_calls
from video_dit.schedulers import check_deterministic, check_scheduler, check_steps, noise_facts
from video_dit.text import encode_prompts, pad_embeds

Callback = Callable[[DiffusionPipeline, int, Tensor, dict], dict]
"""Called with (pipeline, step, timestep, {"latents": tokens being made}) after each step; returns a dict that may hold
other "latents"."""


class VideoPipeline(DiffusionPipeline):
    """Text to video; given video continued, connected, closed to loops, edited and interpolated.

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
        groups = (self.window - 1) * frame_rate / self.frame_rate
        return min(self.window, 1 + max(1, int(groups + 1e-6)))  # which may be a little less than a whole number

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the diffusers folder, safetensors only, with the file that lets
        ``DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)`` find this class.
        """
        super().save_pretrained(save_directory, **kwargs)
        (Path(save_directory) / "pipeline.py").write_text(PIPELINE_FILE)

    def __call__(
        self,
        prompt: str | PromptSchedule | Sequence[str | PromptSchedule] | None = None,
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
        embeds = prompt_embeds, prompt_attention_mask, negative_prompt_embeds, negative_prompt_attention_mask
        texts, negatives, encoded = listed_prompts(
            prompt, negative_prompt, *embeds, self.transformer.config.text_dim, num_videos_per_prompt
        )
        pictures = [*([] if image is None else [(0.0, image)]), *keyframes]
        r, (default_height, default_width) = self.codec.frame_rule[0], self.sizes[0]
        request = VideoRequest(
            "text",
            tuple(PromptSchedule.of(text) for text in texts),
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
            keyframes=tuple(Keyframe.of(seconds, one) for seconds, one in pictures),
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
        frames: Frames,
        direction: str = "forward",
        seconds: float = 4.0,
        **options: Unpack[GivenOptions],
    ) -> VideoPipelineOutput | Any:
        """Continue a video after its end, or make what came before its start, or both.

        The given frames come back untouched, with ``r·max(1, round(seconds · frame_rate / r))`` new ones on each side
        that is made.

        Args:
            frames: uint8 ``(t, h, w, 3)``, height and width multiples of `grid`, more than ``r`` frames.
            direction: "forward", "backward" or "both".
            seconds: to add, above 0.
            options: see `GivenOptions`.
        Returns:
            The whole video in order of time, one sample.
        Raises:
            ValueError: an argument is out of its range.
        """
        if direction not in ("forward", "backward", "both"):
            raise ValueError(f"direction={direction!r} must be 'forward', 'backward' or 'both'")
        mode: Mode = direction  # type: ignore[assignment]  # checked above
        return self._of_given(given_request(mode, frames, self.frame_rate, options, seconds=seconds), options)

    def connect(
        self, first: Frames, second: Frames, seconds: float = 4.0, **options: Unpack[GivenOptions]
    ) -> VideoPipelineOutput | Any:
        """Make what leads from one video to another of the same size.

        Both come back untouched, with ``r·j − 1`` new frames between them, j the nearest to ``seconds`` and at least 1.
        Arguments are those of `extend`.
        """
        asked = given_request("connect", first, self.frame_rate, options, second=second, seconds=seconds)
        return self._of_given(asked, options)

    def loop(self, frames: Frames, seconds: float = 4.0, **options: Unpack[GivenOptions]) -> VideoPipelineOutput | Any:
        """Make what leads from the end of a video back to its start, so that it can be shown over and over.

        It comes back untouched, with ``r·j − 1`` new frames after it, the last of which runs into its first. Arguments
        are those of `extend`.
        """
        return self._of_given(given_request("loop", frames, self.frame_rate, options, seconds=seconds), options)

    def edit(
        self,
        frames: Frames,
        strength: float = 0.6,
        mask: Frames | None = None,
        source_prompt: str | PromptSchedule | None = None,
        **options: Unpack[GivenOptions],
    ) -> VideoPipelineOutput | Any:
        """Change a video into what the prompt says (SDEdit, Meng et al., 2021, arXiv:2108.01073), or by what it says
        otherwise than ``source_prompt``, which tells what the video shows (FlowEdit, see `video_dit.flow_edit`).

        Args:
            frames: as `extend` takes them, of any number.
            strength: how far the video's latents are brought towards noise: 0 gives the video as the autoencoder has
                it, 1 a new one by SDEdit, that of text to video from the same seed. 0.8 is usual of FlowEdit.
            mask: what may change, bool, or uint8 that is white there: one for all frames, ``(h, w)``, or one each,
                ``(t, h, w)``. Pixels outside come back untouched.
            options: see `GivenOptions`.
        Raises:
            ValueError: an argument is out of its range.
        """
        asked = given_request(
            "edit", frames, self.frame_rate, options, strength=strength, mask=mask, source_prompt=source_prompt
        )
        return self._of_given(asked, options)

    def inpaint(self, frames: Frames, mask: Frames, **options: Unpack[GivenOptions]) -> VideoPipelineOutput | Any:
        """Make what a mask covers anew, and leave the rest untouched: `edit` with a strength of 1."""
        asked = given_request("edit", frames, self.frame_rate, options, mask=mask)
        return self._of_given(asked, options)

    def uncrop(
        self, frames: Frames, height: int, width: int, **options: Unpack[GivenOptions]
    ) -> VideoPipelineOutput | Any:
        """Make what is around a video, uint8 ``(t, h, w, 3)`` of at most ``height`` × ``width`` pixels, multiples of
        `grid`, which comes back untouched in the middle of them. ``options`` and errors are those of `edit`."""
        canvas, mask = uncropped(torch.as_tensor(frames), height, width)
        return self._of_given(given_request("edit", canvas, self.frame_rate, options, mask=mask), options)

    def invert(self, frames: Frames, **options: Unpack[SamplingOptions]) -> Inversion:
        """The noise from which the model makes a video, found by following its steps the other way.

        ``pipe(prompt, latents=inversion.noise, guidance_scale=1, …)`` with the same prompt, steps and size makes it
        again, but for the error that is told.

        Args:
            frames: as `extend` takes them; as many as 1 + r·k of them count.
            options: see `SamplingOptions`; ``guidance_scale`` is 1 by default here.
        Raises:
            ValueError: an argument is out of its range, or the scheduler adds noise as it goes.
        """
        asked = given_request("interpolate", frames, self.frame_rate, {**options}, second=frames)
        video = torch.as_tensor(frames)
        return self._inverted(request_from_noise(asked, self.codec.frame_rule[0]), video)

    def interpolate(
        self, first: Frames, second: Frames, fraction: float = 0.5, **options: Unpack[GivenOptions]
    ) -> InterpolationOutput | Any:
        """Make a video between two of the same shape, from the noise between those that lead to either (DDIM, Song et
        al., 2021, section 5.3).

        ``fraction`` is where between them, from 0, the first as the model makes it again, to 1, the second. Options are
        those of `invert`; the output has the PSNR of either video made again.
        """
        check_frames_output(options.get("output_type", "np"))
        asked = given_request("interpolate", first, self.frame_rate, options, second=second, fraction=fraction)
        between, round_trips = self.interpolation(asked)
        frames = self._of_given(between, {**options, "return_dict": False})[0]
        return InterpolationOutput(frames, round_trips) if options.get("return_dict", True) else (frames,)

    def interpolation(self, request: VideoRequest) -> tuple[VideoRequest, tuple[float, float]]:
        """The text to video that an "interpolate" request comes to, from the noise between that of its two videos; and
        the PSNR of either video made again, as `Inversion` has it."""
        assert request.video is not None and request.second is not None
        asked = request_from_noise(request, self.codec.frame_rule[0])
        first, second = (self._inverted(asked, video) for video in (request.video, request.second))
        noise = slerp(first.noise, second.noise, request.fraction)
        return replace(asked, latents=noise), (first.psnr, second.psnr)

    def stream(self, request: VideoRequest, callback_on_step_end: Callback | None = None) -> Iterator[Piece]:
        """The frames of a request in order of time, each piece as soon as it is made. Those that were given are not
        held; of what is made, a window's are, and half a second before a picture.

        What came before a given video is made from its start on: all its latents are there before any of its frames.

        Raises:
            ValueError: the request does not fit the model; raised here, before anything is made.
        """
        if request.mode == "interpolate":
            request, _ = self.interpolation(request)
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
        return context_size(seconds, self.window_at(frame_rate), frame_rate, self.codec.frame_rule[0])

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError unless both are multiples of `grid`."""
        check_size(height, width, self.grid)

    def _check(self, request: VideoRequest) -> int:
        """How many windows there are to make; ValueError where the model cannot make what is asked."""
        check_scheduler(self.scheduler, self.noise)
        check_steps(self.scheduler, request.sampling.num_inference_steps)
        check_offered(request, self.transformer.config)
        if request.mode == "text":
            self.check_size(request.height, request.width)
            count = self.codec.num_latent_frames(request.num_frames)
            grid, channels = self.codec.grid, self.codec.latent_channels
            shape = len(request.prompts), channels, count, request.height // grid, request.width // grid
            check_latents(request.latents, shape)
        else:
            assert request.video is not None
            self.check_size(*request.video.shape[1:3])
        context = self.context_frames(request.context_seconds, request.frame_rate)
        return count_windows(request, self.window_at(request.frame_rate), context, self.codec.frame_rule[0])

    def _bar(self, request: VideoRequest, windows: int) -> Any:
        steps, is_euler = request.sampling.num_inference_steps, request.source_prompt is not None
        calls = num_calls(self.scheduler, steps, request.strength, is_euler)
        return self.progress_bar(total=windows * calls)

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
        return Maker(self.codec, denoise, self.window_at(rate), context, rate, self._execution_device, self.grid)

    def _inverted(self, request: VideoRequest, video: Tensor) -> Inversion:
        check_deterministic(self.scheduler)
        windows = self._check(request)
        prompts = prompts_at(request, self.tokenizer, self.text_encoder)
        parts: dict[str, Any] = {"transformer": self.transformer, "scheduler": self.scheduler, "prompts": prompts}
        with torch.no_grad(), self._bar(request, 2 * windows) as bar:
            invert = partial(window_inverter, **parts, on_step=bar.update)
            found = inverted(request, video, invert, partial(self._maker, callback=None, bar=bar))
        self.maybe_free_model_hooks()
        return found

    def _of_given(self, request: VideoRequest, options: GivenOptions) -> VideoPipelineOutput | Any:
        made = self.stream(request, options.get("callback_on_step_end"))
        return self._finished(made, options.get("output_type", "np"), options.get("return_dict", True))

    def _finished(self, made: Iterator[Piece], output_type: str, return_dict: bool) -> VideoPipelineOutput | Any:
        check_frames_output(output_type)
        frames = to_output(torch.cat([piece.frames for piece in made], dim=2), output_type)
        return VideoPipelineOutput(frames=frames) if return_dict else (frames,)
