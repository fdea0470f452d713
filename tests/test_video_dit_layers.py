"""The parts of a block."""

import torch
from torch import nn

from video_dit.layers import Attention, Block, FeedForward, LevelEmbedding, modulate, sinusoid
from video_dit.level_table import LevelIndex
from video_dit.rope import rope_angles
from video_dit.tokens import Segments


def randomize(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


def block_inputs() -> dict:
    torch.manual_seed(0)
    return {
        "hidden_states": torch.randn(10, 32),
        "modulation": torch.randn(3, 6, 32),
        "levels": LevelIndex.of(torch.tensor([0] * 4 + [1] * 3 + [2] * 3), 3),
        "rope": rope_angles(torch.randn(10, 3), 16, 1000.0),
        "segments": Segments.from_lengths([4, 6]),
        "text": torch.randn(5, 8),
        "text_segments": Segments.from_lengths([2, 3]),
    }


def test_sinusoid_tells_levels_apart() -> None:
    levels = torch.linspace(0, 1000, 1001)
    features = sinusoid(levels, 64)
    assert features.shape == (1001, 64)
    assert features.abs().max() <= 1
    assert torch.allclose(features[:, :32].square() + features[:, 32:].square(), torch.ones(1001, 32), atol=1e-5)
    assert torch.pdist(features).min() > 0.1


def test_modulate_takes_each_token_by_its_level() -> None:
    torch.manual_seed(0)
    x, shift, scale = torch.randn(6, 8), torch.randn(3, 8), torch.randn(3, 8)
    index = torch.tensor([2, 0, 0, 1, 2, 2])
    normal = (x - x.mean(dim=1, keepdim=True)) / (x.var(dim=1, correction=0, keepdim=True) + 1e-6).sqrt()
    expected = torch.stack([normal[n] * (1 + scale[i]) + shift[i] for n, i in enumerate(index)])
    assert torch.allclose(modulate(x, shift, scale, LevelIndex.of(index, 3)), expected, atol=1e-5)


def test_level_embedding_is_a_function_of_each_level_alone() -> None:
    embed = randomize(LevelEmbedding(16))
    levels = torch.tensor([0.0, 0.03, 0.5, 1.0])
    table = embed(levels)
    assert table.shape == (4, 16)
    assert torch.allclose(embed(levels[2:]), table[2:], atol=1e-6)
    assert torch.pdist(table).min() > 0.05


def test_feed_forward_acts_on_each_token_alone() -> None:
    ff = randomize(FeedForward(8, 24))
    x = torch.randn(5, 8)
    assert torch.allclose(ff(x)[3:4], ff(x[3:4]), atol=1e-6)
    assert ff(x).shape == x.shape


def test_attention_is_blind_to_order_without_rope() -> None:
    """Keys in another order: nothing changes in cross-attention, but places count once they turn."""
    attention = randomize(Attention(32, 8, 2))
    torch.manual_seed(0)
    x, source, order = torch.randn(4, 32), torch.randn(6, 8), torch.randperm(6)
    segments, source_segments = Segments.from_lengths([4]), Segments.from_lengths([6])
    out = attention(x, source, segments, source_segments, None)
    assert out.shape == (4, 32)
    assert torch.allclose(attention(x, source[order], segments, source_segments, None), out, atol=1e-5)

    own = randomize(Attention(32, 32, 2))
    rope, moved = (rope_angles(c, 16, 1000.0) for c in (torch.randn(4, 3), 3 * torch.randn(4, 3)))
    assert not torch.allclose(own(x, x, segments, segments, rope), own(x, x, segments, segments, moved), atol=1e-3)


def test_attention_ignores_the_size_of_queries_and_keys() -> None:
    """Queries and keys are normalised, so that logits stay bounded however large the activations grow."""
    attention = randomize(Attention(32, 8, 2))
    x, source = torch.randn(4, 32), torch.randn(6, 8)
    segments, source_segments = Segments.from_lengths([4]), Segments.from_lengths([6])
    with torch.no_grad():
        before = attention(x, source, segments, source_segments, None)
        for layer in (attention.to_q, attention.to_k):
            layer.weight.mul_(50)
            layer.bias.mul_(50)
        assert torch.allclose(attention(x, source, segments, source_segments, None), before, atol=1e-4)


def test_a_block_with_closed_gates_changes_nothing() -> None:
    block = randomize(Block(32, 8, 2, 2.0))
    inputs = block_inputs()
    with torch.no_grad():
        for part in (*block.cross_attn.to_out.parameters(), block.offset):
            part.zero_()
        inputs["modulation"][:, [2, 5]] = 0
        assert torch.equal(block(**inputs), inputs["hidden_states"])
        inputs["modulation"][1, 5] = 1  # of the second level's feed-forward
        changed = (block(**inputs) != inputs["hidden_states"]).any(dim=1)
    assert torch.equal(changed, inputs["levels"].index == 1)


def test_the_offset_of_a_block_adds_to_the_table() -> None:
    block = randomize(Block(32, 8, 2, 2.0))
    inputs = block_inputs()
    with torch.no_grad():
        out = block(**inputs)
        inputs["modulation"] = inputs["modulation"] + block.offset
        block.offset.zero_()
        assert torch.allclose(block(**inputs), out, atol=1e-5)
