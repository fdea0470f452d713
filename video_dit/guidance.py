"""What guides a window: the rows that the model is asked about at a step, and what their outputs make together.

A row is the window under some prompts, with its context shown in some way. The first is that of the prompts themselves;
each other one leads away from what it stands for: from the negative prompt (classifier-free guidance, Ho and Salimans,
2022, arXiv:2207.12598), or from not knowing the context (history guidance, Song et al., 2025, arXiv:2502.06764).
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from video_dit.layers import KeysValues
from video_dit.model import VideoDiT
from video_dit.tokens import Segments

PACKED_TOKENS = 512
"""On a CPU rows are one call up to so many tokens in all, else one call each: sora-tiny in bf16 on 2 cores took for two
rows of 144 tokens 25 ms in one call and 34 in two, of 225 39 and 51, of 324 75 and 52, of 576 114 and 83, of 2304 593
and 450."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a sample of a window stand. known, made: their numbers, ``(n_known,)`` and ``(n_made,)``
    int64. coords ``(n, 3)`` and one_frame ``(n,)``: as the model takes them."""

    known: Tensor
    made: Tensor
    coords: Tensor
    one_frame: Tensor


@dataclass(frozen=True)
class Row:
    """One of the things that the model is asked about.

    text: `VideoDiT.text_keys_values` of the prompts, ``text_segments``, one a sample. context: known tokens as they are
    shown, ``(b, n_known, d)``, and their noise level. scale: of the guidance away from this row; of the first, that of
    the prompts themselves, it says nothing. interval: the levels, from low to high, at which the row acts.
    """

    text: Tensor | list[KeysValues]
    text_segments: Segments
    context: Tensor
    context_level: float
    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def acts_at(self, level: float) -> bool:
        """Whether it counts at this level of the made tokens."""
        low, high = self.interval
        return low <= level <= high


@dataclass(frozen=True)
class Call:
    """A call of the model, but for what changes from step to step. tokens: ``(r, b, n, d)``, the context in its places.
    context_levels: ``(l − 1,)``, the levels other than that of the made tokens. weights: of the rows, ``(r,)``. given:
    the other arguments."""

    tokens: Tensor
    context_levels: Tensor
    weights: Tensor
    given: dict[str, Any]


class GuidedModel:
    """A model that is asked about all ``rows`` of a window at once; ``name`` tells two of one window apart."""

    def __init__(self, model: VideoDiT, rows: list[Row], layout: Layout, name: str = "") -> None:
        self._model, self._rows, self._layout, self._name = model, rows, layout, name
        self._calls: dict[tuple[int, ...], list[Call]] = {}  # by the numbers of the rows that act
        if is_cached(model):
            model._reset_stateful_cache()  # of another window, perhaps of another number of tokens

    def acting(self, level: float) -> tuple[int, ...]:
        """The numbers of the rows that count at this level of the made tokens, that of the prompts first."""
        return (0, *(i for i, row in enumerate(self._rows[1:], 1) if row.acts_at(level)))

    def __call__(self, made: Tensor, level: Tensor, acting: tuple[int, ...]) -> Tensor:
        """The guided output for the made tokens ``(b, n_made, d)`` at their level ``()``, fp32."""
        if acting not in self._calls:
            self._calls[acting] = guiding_calls([self._rows[i] for i in acting], self._layout)
        shares = []
        for number, call in enumerate(self._calls[acting]):
            name = f"{self._name} call {number} of rows {acting}"  # each has a cache of its own
            with self._model.cache_context(name) if is_cached(self._model) else nullcontext():
                shares.append(weighted_output(self._model, call, self._layout, made, level))
        return torch.stack(shares).sum(dim=0)


def is_cached(model: Any) -> bool:
    """Whether one of diffusers' caches is on (see `VideoDiT.enable_cache`)."""
    return getattr(model, "is_cache_enabled", False)


def guiding_calls(rows: list[Row], layout: Layout) -> list[Call]:
    """The calls that ask about all of ``rows``, whose guided output is
    ``first + Σ (scale − 1) · (first − other)``."""
    b, _, _ = rows[0].context.shape
    others = [1 - row.scale for row in rows[1:]]
    weights = [1 - sum(others), *others]
    if layout.coords.device.type != "cpu" or len(rows) * b * len(layout.coords) <= PACKED_TOKENS:
        return [_call(rows, weights, layout)]
    return [_call([row], [weight], layout) for row, weight in zip(rows, weights, strict=True)]


def _call(rows: list[Row], weights: list[float], layout: Layout) -> Call:
    """Rows as segments of one pack: sample after sample of the first, then of the next."""
    count, n, device = len(rows), len(layout.coords), layout.coords.device
    b, _, d = rows[0].context.shape
    tokens = torch.zeros(count, b, n, d, device=device)
    context_levels = sorted({row.context_level for row in rows})
    level_index = torch.zeros(count, b, n, dtype=torch.long, device=device)  # 0 is the made tokens' level
    for number, row in enumerate(rows):
        tokens[number, :, layout.known] = row.context
        level_index[number, :, layout.known] = 1 + context_levels.index(row.context_level)
    given = {
        "level_index": level_index.flatten(),
        "coords": layout.coords.repeat(count * b, 1),
        "one_frame": layout.one_frame.repeat(count * b),
        "segments": Segments.from_lengths([n] * (count * b), device),
        "prompt_embeds": _texts([row.text for row in rows]),
        "prompt_segments": Segments.from_lengths([m for row in rows for m in row.text_segments.lengths], device),
    }
    return Call(tokens, torch.tensor(context_levels, device=device), torch.tensor(weights, device=device), given)


def _texts(rows: list[Tensor | list[KeysValues]]) -> Tensor | list[KeysValues]:
    """Those of all rows, end to end."""
    if isinstance(rows[0], Tensor):
        return torch.cat(rows)  # type: ignore[arg-type]
    blocks = zip(*rows, strict=True)
    return [(torch.cat([k for k, _ in block]), torch.cat([v for _, v in block])) for block in blocks]


def weighted_output(model: VideoDiT, call: Call, layout: Layout, made: Tensor, level: Tensor) -> Tensor:
    """The share of a call in the guided output for the made tokens ``(b, n_made, d)`` at their level ``()``, fp32."""
    tokens = call.tokens.clone()
    tokens[:, :, layout.made] = made
    levels = torch.cat([level[None], call.context_levels])
    output = model(tokens.flatten(0, 2), levels, **call.given).view(tokens.shape)[:, :, layout.made].float()
    return torch.einsum("r,rbnd->bnd", call.weights, output)
