"""The diffusion transformers that are compared: ours, and those of diffusers with as many layers, channels and
parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXTransformer3DModel
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from video_dit.batch import LEVELS_MULTIPLE
from video_dit.flops import transformer_flops
from video_dit.model import VideoDiT
from video_dit.tokens import Segments, grid_coords, latent_times, patchify, per_token

Peer = Literal["wan", "cogvideox", "ltx"]
Family = Literal["ours"] | Peer
Levels = Literal["one", "per frame"]

PATCH = 2
ALIKE = 0.03
"""By how much the parameters of two may differ."""


@dataclass(frozen=True)
class Size:
    """Of all transformers alike: blocks, channels of a token and attention heads."""

    layers: int
    width: int
    heads: int


@dataclass(frozen=True)
class Work:
    """What a forward pass takes: clips of ``grid`` (frames, rows, columns) tokens, each a patch of `PATCH` x `PATCH`
    latent pixels of ``channels``, and a text each."""

    batch: int
    grid: tuple[int, int, int]
    text_length: int
    text_width: int
    channels: int = 16

    @property
    def tokens(self) -> int:
        """Of all clips."""
        frames, rows, columns = self.grid
        return self.batch * frames * rows * columns


@dataclass(frozen=True)
class DiTCandidate:
    """A transformer that is still to be built. levels: what it can take."""

    family: Family
    cls: Any
    settings: dict[str, Any]
    levels: Sequence[Levels]

    def build(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
        """With random weights. None begin at zero: a processor is quicker to multiply by that."""
        with torch.random.fork_rng(devices=[]), torch.device("meta" if device == "meta" else "cpu"):
            torch.manual_seed(0)
            module = self.cls(**self.settings)
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.02)
        return nn.Module.to(module, device=device, dtype=dtype)  # diffusers' own `to` warns of nothing

    def inputs(self, work: Work, levels: Levels, device: str, dtype: torch.dtype) -> dict[str, Any]:
        """The arguments of ``forward`` by name: random, of the device and dtype, and the same numbers for all."""
        frames, rows, columns = work.grid
        generator = torch.Generator().manual_seed(0)
        shape = work.batch, work.channels, frames, PATCH * rows, PATCH * columns
        latents = torch.randn(shape, generator=generator)
        text = torch.randn(work.batch, work.text_length, work.text_width, generator=generator)
        per_frame = torch.rand(work.batch, frames, generator=generator)
        if levels == "one":
            per_frame = per_frame[:, :1].expand(-1, frames)
        match self.family:
            case "ours":
                found = _our_inputs(latents, text, per_frame)
            case "wan":
                found = {"hidden_states": latents, "encoder_hidden_states": text}
            case "cogvideox":
                head_dim = self.settings["attention_head_dim"]
                crop = (0, 0), (rows, columns)
                found = {
                    "hidden_states": rearrange(latents, "b c t h w -> b t c h w"),
                    "encoder_hidden_states": text,
                    "image_rotary_emb": get_3d_rotary_pos_embed(head_dim, crop, (rows, columns), frames),
                }
            case "ltx":
                found = {
                    "hidden_states": patchify(latents, PATCH),
                    "encoder_hidden_states": text,
                    "encoder_attention_mask": None,
                    "num_frames": frames,
                    "height": rows,
                    "width": columns,
                }
        if self.family != "ours":
            steps = 1000 * per_frame
            steps = steps[:, 0] if levels == "one" else repeat(steps, "b t -> b (t hw)", hw=rows * columns)
            found |= {"timestep": steps, "return_dict": False}
        given = ("hidden_states", "encoder_hidden_states", "prompt_embeds")  # angles and levels stay fp32
        return {name: _placed(value, device, dtype if name in given else None) for name, value in found.items()}


def _placed(value: Any, device: str, dtype: torch.dtype | None) -> Any:
    if isinstance(value, tuple):
        return tuple(_placed(one, device, dtype) for one in value)
    if isinstance(value, Segments):
        return value.to(device)
    return value.to(device, dtype) if isinstance(value, Tensor) else value


def _our_inputs(latents: Tensor, text: Tensor, per_frame: Tensor) -> dict[str, Any]:
    """As `video_dit.batch.build_pack` makes them: clips end to end, distinct levels in a table."""
    batch, _, frames, height, width = latents.shape
    tokens = patchify(latents, PATCH)
    distinct, index = per_frame.unique(return_inverse=True)
    one_frame = torch.zeros(frames, dtype=torch.bool)
    one_frame[0] = True
    coords = grid_coords(latent_times(frames, 8.0, 4, starts_clip=True), height, width, PATCH)
    return {
        "hidden_states": rearrange(tokens, "b n p -> (b n) p"),
        "levels": nn.functional.pad(distinct, (0, -len(distinct) % LEVELS_MULTIPLE)),
        "level_index": repeat(index, "b t -> (b t hw)", hw=tokens.shape[1] // frames),
        "coords": repeat(coords, "n xyz -> (b n) xyz", b=batch),
        "one_frame": repeat(per_token(one_frame, height, width, PATCH), "n -> (b n)", b=batch),
        "segments": Segments.from_lengths([tokens.shape[1]] * batch),
        "prompt_embeds": rearrange(text, "b m d -> (b m) d"),
        "prompt_segments": Segments.from_lengths([text.shape[1]] * batch),
    }


def our_candidate(size: Size, work: Work) -> DiTCandidate:
    """Our transformer; raises ValueError where the heads do not divide the width."""
    settings = {
        "in_channels": work.channels,
        "patch_size": PATCH,
        "hidden_size": size.width,
        "num_layers": size.layers,
        "num_heads": size.heads,
        "text_dim": work.text_width,
    }
    try:
        candidate = DiTCandidate("ours", VideoDiT, settings, ("one", "per frame"))
        count_parameters(candidate)
    except ValueError as error:
        raise ValueError(f"--width {size.width} --heads {size.heads}: {error}") from None
    return candidate


def peer_candidate(peer: Peer, size: Size, work: Work, parameters: int) -> DiTCandidate:
    """One of diffusers' of the same size, and as near to that many parameters as what its design leaves free lets it:
    Wan's feed-forward width, CogVideoX's channels of the time embedding. LTX-Video's is as it is.

    Raises:
        ValueError: it differs by more than `ALIKE`.
    """
    settings: dict[str, Any] = {
        "num_layers": size.layers,
        "num_attention_heads": size.heads,
        "attention_head_dim": size.width // size.heads,
    }
    match peer:
        case "wan":
            settings |= {"text_dim": work.text_width, "in_channels": work.channels, "out_channels": work.channels}
            found = _solved(WanTransformer3DModel, peer, settings, ("one", "per frame"), "ffn_dim", parameters)
        case "cogvideox":
            settings |= {
                "in_channels": work.channels,
                "out_channels": work.channels,
                "patch_size": PATCH,
                "text_embed_dim": work.text_width,
                "max_text_seq_length": work.text_length,
                "use_rotary_positional_embeddings": True,
            }
            found = _solved(CogVideoXTransformer3DModel, peer, settings, ("one",), "time_embed_dim", parameters)
        case "ltx":
            settings |= {
                "in_channels": work.channels * PATCH**2,
                "out_channels": work.channels * PATCH**2,
                "cross_attention_dim": size.width,
                "caption_channels": work.text_width,
            }
            found = DiTCandidate(peer, LTXVideoTransformer3DModel, settings, ("one", "per frame"))
    has = count_parameters(found)
    if abs(has / parameters - 1) > ALIKE:
        raise ValueError(
            f"--against {peer}: of this size it has {has:,} parameters, ours {parameters:,}: "
            "use a --text-width like --width, or more --layers"
        )
    return found


def _solved(
    cls: Any, peer: Peer, settings: dict[str, Any], levels: Sequence[Levels], free: str, parameters: int
) -> DiTCandidate:
    """The multiple of 8 of the setting ``free`` that comes nearest; parameters grow about linearly with it."""

    def of(value: int) -> DiTCandidate:
        return DiTCandidate(peer, cls, {**settings, free: value}, levels)

    low, high = 8, 16 * settings["num_attention_heads"] * settings["attention_head_dim"]
    while high - low > 8:
        middle = (low + high) // 16 * 8
        low, high = (middle, high) if count_parameters(of(middle)) <= parameters else (low, middle)
    return min(of(low), of(high), key=lambda candidate: abs(count_parameters(candidate) - parameters))


def blocks_of(module: nn.Module) -> nn.ModuleList:
    """The blocks, which are alike: to compile these takes a fraction of the time that the whole takes (diffusers'
    ``compile_repeated_blocks``)."""
    found = getattr(module, "blocks", None) or module.transformer_blocks
    assert isinstance(found, nn.ModuleList)
    return found


def count_parameters(candidate: DiTCandidate) -> int:
    """Numbers in all weights."""
    return sum(parameter.numel() for parameter in candidate.build(device="meta").parameters())


@torch.no_grad()
def count_flops(candidate: DiTCandidate, work: Work, levels: Levels) -> int:
    """Of a forward pass: matrix products and attention, a multiplication and an addition as two."""
    if candidate.family == "ours":
        config: Any = candidate.build(device="meta").config
        clip = work.tokens // work.batch
        distinct = work.batch * (1 if levels == "one" else work.grid[0])
        texts = [work.text_length] * work.batch
        return transformer_flops(config, [clip] * work.batch, texts, distinct) // 3  # forward, and backward twice that
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        candidate.build(device="meta")(**candidate.inputs(work, levels, "meta", torch.float32))
    return counter.get_total_flops()
