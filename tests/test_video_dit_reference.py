"""The transformer as it is computed, packed, fused, compiled, in 16 bits, against its mathematics written out: a level
embedding for each token, masks over all pairs, rotations as complex numbers."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from video_dit import VideoDiT
from video_dit.layers import Attention, Block, sinusoid
from video_dit.rope import ANGLE_PER_SECOND, axis_pairs
from video_dit.tokens import Segments

GRAPHS, PACKS = 4, 200


def random_pack(seed: int, width: int = 16) -> dict[str, Any]:
    """Samples of random lengths, now and then all of one, with levels that follow no order."""
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    lengths = [rng.randint(1, 90) for _ in range(rng.randint(1, 6))]
    if seed % 3 == 0:
        lengths = [lengths[0]] * len(lengths)
    texts = [rng.randint(1, 20) for _ in lengths]
    n, count = sum(lengths), 32 * rng.randint(1, 3)
    return {
        "hidden_states": torch.randn(n, 16, generator=g),
        "levels": torch.rand(count, generator=g),
        "level_index": torch.randint(0, count, (n,), generator=g),
        "coords": 4 * torch.randn(n, 3, generator=g),
        "one_frame": torch.rand(n, generator=g) < 0.2,
        "segments": Segments.from_lengths(lengths),
        "prompt_embeds": torch.randn(sum(texts), width, generator=g),
        "prompt_segments": Segments.from_lengths(texts),
    }


def owners(segments: Segments) -> Tensor:
    return torch.repeat_interleave(torch.arange(segments.count), torch.tensor(segments.lengths))


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight


def attend(layer: Attention, x: Tensor, source: Tensor, mask: Tensor, turn: Tensor | None) -> Tensor:
    heads = layer.num_heads
    q, k, v = (f(y).unflatten(1, (heads, -1)) for f, y in ((layer.to_q, x), (layer.to_k, source), (layer.to_v, source)))
    q, k = rms(q, layer.norm_q.weight), rms(k, layer.norm_k.weight)
    if turn is not None:
        q, k = (torch.view_as_complex(torch.stack(y.chunk(2, dim=-1), dim=-1)) * turn[:, None] for y in (q, k))
        q, k = (torch.cat([y.real, y.imag], dim=-1) for y in (q, k))
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return layer.to_out(torch.einsum("hqk,khd->qhd", weights, v).flatten(1))


def written_out(model: VideoDiT, p: dict[str, Any]) -> Tensor:
    """The forward pass in fp32."""
    head_dim = model.config.hidden_size // model.config.num_heads
    x = model.patch_embed(p["hidden_states"]) + p["one_frame"][:, None] * model.one_frame_embed
    embedding = F.silu(model.level_embed.down(F.silu(model.level_embed.up(sinusoid(1000 * p["levels"], 256)))))
    of_token = embedding[p["level_index"]]  # n d
    places = p["coords"] * torch.tensor([ANGLE_PER_SECOND, 1.0, 1.0])
    angles = [
        places[:, axis, None] * model.config.rope_theta ** -(torch.arange(pairs) / max(pairs, 1))
        for axis, pairs in enumerate(axis_pairs(head_dim))
    ]
    turn = torch.polar(torch.ones(len(x), head_dim // 2), torch.cat(angles, dim=1))
    row, column = owners(p["segments"]), owners(p["prompt_segments"])
    text = rms(p["prompt_embeds"], model.norm_text.weight)
    width = x.shape[1:]
    for block in model.blocks:
        assert isinstance(block, Block)
        six = model.modulation(of_token).unflatten(1, (6, -1)) + block.offset
        shift, scale, gate, shift_ff, scale_ff, gate_ff = six.unbind(dim=1)
        y = F.layer_norm(x, width, eps=1e-6) * (1 + scale) + shift
        x = x + gate * attend(block.attn, y, y, row[:, None] == row, turn)
        x = x + attend(block.cross_attn, block.norm_text(x), text, row[:, None] == column, None)
        y = F.layer_norm(x, width, eps=1e-6) * (1 + scale_ff) + shift_ff
        x = x + gate_ff * block.ff.down(F.gelu(block.ff.up(y)))
    shift, scale = model.modulation_out(of_token).chunk(2, dim=1)
    return model.proj_out(F.layer_norm(x, width, eps=1e-6) * (1 + scale) + shift)


def gradients(model: VideoDiT, out: Tensor) -> Tensor:
    """Of all parameters, end to end, in fp32."""
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((out.float() * weight).sum(), [*model.parameters()])
    return torch.cat([gradient.float().flatten() for gradient in found])


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a.float() - b).norm() / b.norm()).detach())


@pytest.mark.parametrize("seed", range(4))
def test_output_and_gradients_are_those_written_out(tiny_dit: VideoDiT, seed: int) -> None:
    p = random_pack(seed)
    out, expected = tiny_dit(**p), written_out(tiny_dit, p)
    assert relative(out, expected) < 1e-5
    assert relative(gradients(tiny_dit, out), gradients(tiny_dit, expected)) < 1e-5


@pytest.mark.parametrize("seed", range(2))
def test_in_sixteen_bits_they_are_within_rounding(tiny_dit: VideoDiT, seed: int) -> None:
    p = random_pack(seed)
    expected = written_out(tiny_dit, p)
    of_expected = gradients(tiny_dit, expected)
    short = VideoDiT.from_config(tiny_dit.config)
    short.load_state_dict(tiny_dit.state_dict())
    out = torch.nn.Module.to(short, torch.bfloat16)(**p)
    assert relative(out, expected) < 0.03
    assert relative(gradients(short, out), of_expected) < 0.05


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as it compiles, PyTorch warns of what it does itself
@torch.compiler.set_stance("default")  # Muon on a CPU sets another one
def test_compiled_blocks_give_the_same_of_a_few_graphs(tiny_dit: VideoDiT) -> None:
    """Lengths, texts, levels and numbers of samples change from pack to pack; ``fullgraph`` allows no break. Without
    the code that Inductor would make: graphs are what is counted here."""
    from torch._dynamo.utils import counters

    plain = VideoDiT.from_config(tiny_dit.config)
    plain.load_state_dict(tiny_dit.state_dict())
    torch.compiler.reset()
    counters.clear()  # a reset leaves those of other tests
    tiny_dit.compile_repeated_blocks(dynamic=True, fullgraph=True, backend="aot_eager")
    for seed in range(PACKS):
        p = random_pack(seed)
        out = tiny_dit(**p)
        found = gradients(tiny_dit, out)
        if seed % 20 == 0:
            expected = plain(**p)
            assert relative(out, expected) < 1e-5
            assert relative(found, gradients(plain, expected)) < 1e-5
    assert 0 < counters["stats"]["unique_graphs"] <= GRAPHS
