"""Attention within segments: each query sees the keys of its own segment and no other."""

import math
from itertools import groupby

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.utils.rnn import pad_sequence

from video_dit.tokens import Segments

QUERY_CHUNK = 64


def segment_attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, kv_segments: Segments) -> Tensor:
    """Softmax attention of packed samples.

    Equal segments are a dense batch. Unequal ones go to the variable-length kernel on CUDA in 16 bits; elsewhere
    neighbours with as many queries are a dense batch, their keys padded and masked. A CPU does a few queries at a
    time with plain matrix products, which there is faster than its fused kernel.

    Args:
        q: ``(n, heads, head_dim)``. k, v: ``(m, heads, head_dim)``.
        segments: of the queries. kv_segments: of keys and values, as many; the same for self-attention.
    Returns:
        ``(n, heads, head_dim)``.
    """
    assert segments.count == kv_segments.count
    if segments.equal and kv_segments.equal:
        k, v = (rearrange(x, "(s m) heads d -> m s heads d", s=segments.count) for x in (k, v))
        return _dense_attention(q, k, v, None)
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        bounds = segments.cu_seqlens, kv_segments.cu_seqlens
        out = varlen_attn(q, k, v, *bounds, segments.max_length, kv_segments.max_length)
        assert isinstance(out, Tensor)
        return out
    outputs: list[Tensor] = []
    pairs = zip(segments.slices(), kv_segments.slices(), strict=True)
    for _, run in groupby(pairs, key=lambda pair: pair[0].stop - pair[0].start):
        members = list(run)  # neighbours with as many queries are a dense batch
        queries = q[members[0][0].start : members[-1][0].stop]
        keys, values = ([x[columns] for _, columns in members] for x in (k, v))
        outputs.append(_dense_attention(queries, pad_sequence(keys), pad_sequence(values), _key_bias(keys)))
    return torch.cat(outputs)


def _key_bias(keys: list[Tensor]) -> Tensor | None:
    """``(s, 1, 1, longest)``: 0 for the keys of each segment, −inf for its padding; None where nothing is padded."""
    lengths = torch.tensor([len(x) for x in keys], device=keys[0].device)
    longest = int(lengths.max())
    if bool((lengths == longest).all()):
        return None
    padding = torch.arange(longest, device=lengths.device) >= lengths[:, None]
    bias = torch.zeros(padding.shape, device=lengths.device, dtype=keys[0].dtype).masked_fill(padding, -math.inf)
    return rearrange(bias, "s m -> s 1 1 m")


def _dense_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Queries ``(s·n, heads, d)`` over ``(m, s, heads, d)`` keys and values; ``bias (s, 1, 1, m)`` hides padding."""
    q = rearrange(q, "(s n) heads d -> s heads n d", s=k.shape[1])
    k, v = (rearrange(x, "m s heads d -> s heads m d") for x in (k, v))
    if q.device.type != "cpu":
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    else:
        out = _chunked_attention(q, k, v, bias)
    return rearrange(out, "s heads n d -> (s n) heads d")


def _chunked_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """``softmax(q kᵀ / sqrt(d) + bias) v`` over ``(s, heads, length, d)``, some queries at a time."""
    q = q / math.sqrt(q.shape[-1])
    keys = rearrange(k, "s heads m d -> s heads d m")
    chunks: list[Tensor] = []
    for part in q.split(QUERY_CHUNK, dim=2):
        scores = part @ keys if bias is None else part @ keys + bias
        chunks.append(scores.softmax(dim=-1) @ v)
    return torch.cat(chunks, dim=2)
