"""Attention within segments: each query sees the keys of its own segment and no other.

One operator for PyTorch, so that `torch.compile` does not look into it: which kernel runs depends on lengths that are
known on the host alone, and no graph is made anew for other lengths.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby, pairwise
from typing import Any

import torch
import torch.nn.attention
from einops import rearrange, repeat
from torch import Tensor

from video_dit.linear import product
from video_dit.tokens import Segments

TILE = 1 << 19
"""Scores that are computed at a time: about what the cache of a CPU core holds, in bf16."""
GPU_TILE = 1 << 26
"""The same where no flash kernel runs, in fp32: 256 MiB."""


def segment_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, kv_segments: Segments) -> Tensor:
    """Softmax attention of packed samples.

    On CUDA in 16 bits PyTorch's flash attention of variable length, FlashAttention 3 after `use_flash_attention_3`.
    Segments of one length take it as well: cuDNN's dense kernel is faster (on an H100 with 128 channels a head 543
    TFLOP/s forward and 424 with the way back, against 289 and 240), but hardly a training pack is of one length.

    Elsewhere neighbours with as many queries are a dense batch, their keys padded and masked, and go through plain
    matrix products a tile at a time, on a CPU in bf16 at least twice as fast as its fused kernel. Scores are not kept
    for the way back.

    Args:
        q: ``(n, heads, head_dim)``. k, v: ``(m, heads, head_dim)``.
        segments: of the queries. kv_segments: of keys and values, as many; the same for self-attention.
    Returns:
        ``(n, heads, head_dim)``.
    """
    assert segments.count == kv_segments.count
    bounds = segments.cu_seqlens, kv_segments.cu_seqlens, segments.bounds, kv_segments.bounds
    return _attention(q, k, v, *bounds)[0]


def use_flash_attention_3() -> bool:
    """Have `segment_attention` run FlashAttention 3 (Shah et al., 2024, arXiv:2407.08608) from here on, and say
    whether it does: on GPUs of compute capability 9.0 where the package ``flash_attn_interface`` is installed and
    PyTorch can activate it (2.13 can). Elsewhere nothing changes."""
    if not (torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)):
        return False
    known: list[str] = getattr(torch.nn.attention, "list_flash_attention_impls", list)()
    if "FA3" not in known or find_spec("flash_attn_interface") is None:
        return False
    torch.nn.attention.activate_flash_attention_impl("FA3")
    return True


def attention_flops(segments: Segments, kv_segments: Segments, width: int) -> int:
    """Of `segment_attention` on the way there; back it is twice that. ``width`` is heads · head_dim."""
    pairs = zip(segments.lengths, kv_segments.lengths, strict=True)
    return 4 * width * sum(rows * columns for rows, columns in pairs)


@torch.library.custom_op("video_dit::segment_attention", mutates_args=())
def _attention(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, bounds_q: Tensor, bounds_k: Tensor
) -> tuple[Tensor, Tensor]:
    """Output ``(n, heads, head_dim)``, and ``(heads, n)`` fp32 for the way back: the sums of softmax, their logarithms
    where a flash kernel ran."""
    if _flash(q):
        out, sums, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, cu_q, cu_k, _longest(bounds_q), _longest(bounds_k), 0.0, False, False
        )
        return out, sums
    out, sums = torch.empty(q.shape, dtype=q.dtype, device=q.device), _sums_like(q)
    for batch in _batches(q, k, v, bounds_q, bounds_k):
        made, made_sums = _dense_forward(batch)
        out[batch.rows] = rearrange(made, "(s heads) n d -> (s n) heads d", heads=q.shape[1])
        sums[:, batch.rows] = rearrange(made_sums, "(s heads) n 1 -> heads (s n)", heads=q.shape[1])
    return out, sums


@_attention.register_fake
def _(q: Tensor, *_: Tensor) -> Any:
    return q.new_empty(q.shape), _sums_like(q)


@torch.library.custom_op("video_dit::segment_attention_backward", mutates_args=())
def _attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    bounds_q: Tensor,
    bounds_k: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    if _flash(q):
        lengths = _longest(bounds_q), _longest(bounds_k)
        no_dropout = torch.zeros(2, dtype=torch.uint64, device=q.device)
        return torch.ops.aten._flash_attention_backward(
            grad.contiguous(), q, k, v, out, sums, cu_q, cu_k, *lengths, 0.0, False, no_dropout, no_dropout[:0]
        )
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    heads = q.shape[1]
    for batch in _batches(q, k, v, bounds_q, bounds_k):
        above = rearrange(grad[batch.rows], "(s n) heads d -> (s heads) n d", n=batch.length).contiguous()
        batch_sums = rearrange(sums[:, batch.rows], "heads (s n) -> (s heads) n 1", n=batch.length)
        to_queries, to_keys, to_values = _dense_backward(above, batch_sums, batch)
        dq[batch.rows] = rearrange(to_queries, "(s heads) n d -> (s n) heads d", heads=heads)
        for whole, gradient in ((dk, to_keys), (dv, to_values)):
            padded = rearrange(gradient, "(s heads) m d -> (s m) heads d", heads=heads)
            whole[batch.columns] = padded if batch.real is None else padded.index_select(0, batch.real)
    return dq, dk, dv


@_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Any:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output, *inputs[3:])


def _differentiate(context: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_attention_backward(grad, *context.saved_tensors), None, None, None, None)


_attention.register_autograd(_differentiate, setup_context=_keep)


def _flash(q: Tensor) -> bool:
    head_dim = q.shape[-1]
    return q.is_cuda and q.dtype in (torch.bfloat16, torch.float16) and head_dim % 8 == 0 and head_dim <= 256


def _longest(bounds: Tensor) -> int:
    return int(bounds.diff().max())


def _sums_like(q: Tensor) -> Tensor:
    return torch.empty((q.shape[1], q.shape[0]), dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)


@dataclass(frozen=True)
class _Batch:
    """Neighbours of as many queries. rows, columns: where their queries and their keys stand. queries:
    ``(s·heads, n, d)`` times log2(e) over the square root of d, so that powers of two of the scores are softmax's.
    keys, values: ``(s·heads, m, d)``, padded. bias: ``(s·heads, 1, m)``, 0 for keys and −inf for padding. real: which
    of the ``s·m`` are not padding; both None where there is none. shifted: whether scores are so large that each row's
    largest must be taken off."""

    rows: slice
    columns: slice
    queries: Tensor
    keys: Tensor
    values: Tensor
    bias: Tensor | None
    real: Tensor | None
    shifted: bool

    @property
    def length(self) -> int:
        """Queries of each."""
        return self.queries.shape[1]

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Along s·heads and n: all queries of as many heads as a tile has room for, else a part of one's queries."""
        (members, n, _), m = self.queries.shape, self.keys.shape[1]
        tile = TILE if self.queries.device.type == "cpu" else GPU_TILE
        rows = max(1, min(n, tile // m))
        step = max(1, tile // (rows * m))
        for member in range(0, members, step):
            for row in range(0, n, rows):
                yield slice(member, member + step), slice(row, row + rows)

    def powers(self, members: slice, rows: slice) -> Tensor:
        """Softmax before it is divided by its sums, ``(members, rows, m)``."""
        scores = product(self.queries[members, rows], self.keys[members])
        if self.bias is not None:
            scores += self.bias[members]
        if self.shifted:
            scores -= scores.amax(dim=-1, keepdim=True)
        return scores.exp2_()


def _batches(q: Tensor, k: Tensor, v: Tensor, bounds_q: Tensor, bounds_k: Tensor) -> Iterator[_Batch]:
    ends = pairwise(bounds_q.tolist()), pairwise(bounds_k.tolist())
    heads, scale = q.shape[1], math.log2(math.e) / math.sqrt(q.shape[-1])
    shifted = not scale * _length(q) * _length(k) < math.log2(torch.finfo(q.dtype).max) / 2
    for length, run in groupby(zip(*ends, strict=True), key=lambda pair: pair[0][1] - pair[0][0]):
        rows_of, columns_of = zip(*run, strict=True)  # where each begins and stops
        rows, columns = (slice(each[0][0], each[-1][1]) for each in (rows_of, columns_of))
        queries = rearrange(q[rows], "(s n) heads d -> (s heads) n d", n=length)
        queries = queries.clone(memory_format=torch.contiguous_format).mul_(scale)
        lengths = torch.tensor(columns_of).diff()  # s 1
        longest = int(lengths.max())
        bias = real = None
        if bool((lengths == longest).all()):
            keys, values = k[columns], v[columns]
        else:
            place = torch.arange(longest)
            padding = place >= lengths  # s m
            index = torch.tensor(columns_of)[:, :1] + place.minimum(lengths - 1)  # padding is the last key once more
            index, real = index.flatten().to(q.device), (~padding).flatten().nonzero().flatten().to(q.device)
            keys, values = k.index_select(0, index), v.index_select(0, index)
            bias = torch.zeros(padding.shape, dtype=q.dtype).masked_fill(padding, -math.inf).to(q.device)
            bias = repeat(bias, "s m -> (s heads) 1 m", heads=heads)
        keys, values = (rearrange(x, "(s m) heads d -> (s heads) m d", m=longest).contiguous() for x in (keys, values))
        yield _Batch(rows, columns, queries, keys, values, bias, real, shifted)


def _length(x: Tensor) -> float:
    """Of the longest of the vectors ``(n, heads, d)``."""
    return float(torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32)).max())


def _dense_forward(batch: _Batch) -> tuple[Tensor, Tensor]:
    """``(s·heads, n, d)``, and the sums of softmax ``(s·heads, n, 1)`` fp32."""
    out, exact = torch.empty_like(batch.queries), torch.promote_types(batch.queries.dtype, torch.float32)
    sums = torch.empty((*out.shape[:2], 1), dtype=exact, device=out.device)
    for members, rows in batch.tiles():
        powers = batch.powers(members, rows)
        sums[members, rows] = powers.sum(dim=-1, keepdim=True, dtype=exact)
        out[members, rows] = product(powers, batch.values[members].mT) / sums[members, rows]
    return out, sums


def _dense_backward(grad: Tensor, sums: Tensor, batch: _Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values of a batch; the latter two are summed over tiles, if there are more than
    one to a head, in fp32."""
    to_queries = torch.empty_like(batch.queries)
    tiles = list(batch.tiles())
    total = grad.dtype if tiles[-1][1].start == 0 else torch.promote_types(grad.dtype, torch.float32)
    to_keys, to_values = (torch.zeros(x.shape, dtype=total, device=x.device) for x in (batch.keys, batch.values))
    share = (1 / sums).to(grad.dtype)  # rounded, so weights do not add up to 1; what all values have in common must go
    centred = batch.values - batch.values.mean(dim=1, keepdim=True)
    for members, rows in tiles:
        weights = batch.powers(members, rows).mul_(share[members, rows])
        above = grad[members, rows]
        to_values[members].add_(product(weights.mT, above.mT))
        to_weights = product(above, centred[members])
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_queries[members, rows] = product(to_scores, batch.keys[members].mT)
        to_keys[members].add_(product(to_scores.mT, batch.queries[members, rows].mT))
    return to_queries.div_(math.sqrt(grad.shape[-1])), to_keys.mul_(math.log(2)), to_values
