"""A pack shared by several ranks: each has an equal slice of its tokens, and in self-attention some heads of them all.

After DeepSpeed Ulysses (Jacobs et al., 2023, arXiv:2309.14509): an all-to-all turns slices of tokens with all heads
into all tokens with a slice of the heads, and back.
"""

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from einops import rearrange
from torch import Tensor
from torch.distributed import ProcessGroup

from video_dit.attention import segment_attention
from video_dit.tokens import Segments, Split

if TYPE_CHECKING:
    from video_dit.batch import Pack

T = TypeVar("T")


def packs_at_once(degree: int, ranks: int) -> int:
    """How many packs so many ranks work on at a time.

    Raises:
        ValueError: the ranks cannot be shared out.
    """
    if ranks % degree:
        raise ValueError(f"train.sequence_parallel={degree} must divide the number of ranks, {ranks}")
    return ranks // degree


def sequence_group(degree: int) -> ProcessGroup | None:
    """The ``degree`` neighbours that share a pack with this rank; None for 1. All ranks call it."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if degree == 1:
        return None
    groups = [torch.distributed.new_group(list(range(at, at + degree))) for at in range(0, world, degree)]
    return groups[rank // degree]


def of_first(value: T | None, group: ProcessGroup | None) -> T:
    """What the first rank of ``group`` gives, on all of them; a group of None has but one.

    Were each to read the pack by itself, one that cannot read a clip would have another pack than its neighbours.
    """
    given = [value]
    if group is not None:
        torch.distributed.broadcast_object_list(given, group=group, group_src=0)
    (found,) = given
    assert found is not None
    return found


def split_pack(pack: "Pack", group: ProcessGroup | None) -> "Pack":
    """This rank's slice of a pack that all ranks of ``group`` have; a group of None has but one.

    The pack is filled up to a multiple of the ranks by tokens that are a segment of their own and bear no loss. In
    cross-attention, which is within the slice, they look at the last prompt.
    """
    if group is None:
        return pack
    part, parts = torch.distributed.get_rank(group), group.size()
    lengths = pack.segments.lengths
    n = sum(lengths)
    share = -(-n // parts)
    fill = share * parts - n
    start, stop = part * share, (part + 1) * share
    bounds = [*pack.segments.bounds.tolist()[:-1], n + fill]
    here = [number for number, (low, high) in enumerate(pairwise(bounds)) if low < stop and start < high]
    cut = Segments.from_lengths([min(bounds[i + 1], stop) - max(bounds[i], start) for i in here])
    whole = Segments.from_lengths([*lengths, fill] if fill else lengths)

    def slice_of(tokens: Tensor) -> Tensor:
        filled = torch.cat([tokens, tokens.new_zeros(fill, *tokens.shape[1:])])
        return filled[start:stop]

    made = slice_of(pack.made)
    texts = pack.prompts.segments
    first, last = texts.bounds[here[0]].item(), texts.bounds[here[-1] + 1].item()
    prompts = replace(
        pack.prompts,
        places=pack.prompts.places[first:last],
        segments=Segments.from_lengths([texts.lengths[i] for i in here]),
    )
    return replace(
        pack,
        hidden_states=slice_of(pack.hidden_states),
        target=slice_of(pack.target),
        level_index=slice_of(pack.level_index),
        coords=slice_of(pack.coords),
        one_frame=slice_of(pack.one_frame),
        made=made,
        weight=slice_of(pack.weight),
        segments=replace(cut, split=Split(whole, group)),
        prompts=prompts,
        loss_elements=int(made.sum()) * pack.target.shape[1],
    )


def split_attention(q: Tensor, k: Tensor, v: Tensor, split: Split) -> Tensor:
    """Self-attention over a whole pack: `segment_attention` of slices ``(n / ranks, heads, head_dim)``, of which the
    ranks' number divides the heads."""
    ranks = split.group.size()
    slices = rearrange(torch.stack([q, k, v]), "three n (ranks heads) d -> ranks three n heads d", ranks=ranks)
    heads = rearrange(_exchange(slices, split.group), "ranks three n heads d -> three (ranks n) heads d")
    q, k, v = heads.unbind()
    out = segment_attention(q, k, v, split.segments, split.segments)
    slices = _exchange(rearrange(out, "(ranks n) heads d -> ranks n heads d", ranks=ranks), split.group)
    return rearrange(slices, "ranks n heads d -> n (ranks heads) d")


@torch.compiler.disable
def _exchange(x: Tensor, group: ProcessGroup) -> Tensor:
    """Row i of ``(ranks, …)`` goes to rank i, whose row i then is this rank's."""
    exchanged = _Exchange.apply(x, group)
    assert isinstance(exchanged, Tensor)
    return exchanged


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        torch.distributed.all_to_all_single(out, x.contiguous(), group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _exchange(grad, ctx.group), None
