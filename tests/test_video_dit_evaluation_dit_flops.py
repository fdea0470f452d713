"""FLOPs from sizes and lengths, beside what torch counts as it computes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from video_dit.evaluation.dit_flops import Flops, forward_flops
from video_dit.model import VideoDiT
from video_dit.tokens import Segments

PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm)


@pytest.fixture
def model() -> VideoDiT:
    return VideoDiT(hidden_size=32, num_layers=3, num_heads=2, ratio=3.0, text_dim=24, in_channels=5)


def counted(model: VideoDiT, tokens: list[int], texts: list[int], levels: int, backward: bool) -> int:
    """FLOPs of linear layers alone: attention may be an operator that torch does not look into."""
    n, m = sum(tokens), sum(texts)
    with FlopCounterMode(display=False) as counter:
        out = model(
            torch.randn(n, 20),
            torch.rand(levels),
            torch.zeros(n, dtype=torch.long),
            torch.rand(n, 3),
            torch.zeros(n, dtype=torch.bool),
            Segments.from_lengths(tokens),
            torch.randn(m, 24),
            Segments.from_lengths(texts),
        )
        if backward:
            out.square().sum().backward()
    return sum(counter.get_flop_counts()["Global"].get(product, 0) for product in PRODUCTS)


@pytest.mark.parametrize(("tokens", "texts", "levels"), [([6, 10, 4], [3, 1, 8], 2), ([12], [5], 1)])
def test_linear_layers_are_counted_as_torch_does(
    model: VideoDiT, tokens: list[int], texts: list[int], levels: int
) -> None:
    assert forward_flops(model.config, tokens, texts, levels).linear == counted(model, tokens, texts, levels, False)


def test_attention_by_hand(model: VideoDiT) -> None:
    """Two products of 3 layers over width 32: 6 tokens look at 6 and at a text of 3, 10 at 10 and at 1."""
    assert forward_flops(model.config, [6, 10], [3, 1], 1).attention == 3 * 2 * 2 * 32 * (6 * 9 + 10 * 11)


def test_a_step_is_three_passes_less_what_needs_no_gradient(model: VideoDiT) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)  # what begins at zero would pass on no gradient, but is counted all the same
    flops = forward_flops(model.config, [6, 10], [3, 1], 2)
    assert flops.training == 3 * flops.linear - flops.inputs + 3 * flops.attention
    step = counted(model, [6, 10], [3, 1], 2, backward=True)
    # gradients of a table's rows may be summed by products as well: they are no part of the model
    assert 3 * flops.linear - flops.inputs <= step <= 1.1 * 3 * flops.linear


def test_one_sample_is_dearer_than_its_halves() -> None:
    config = {"hidden_size": 8, "num_layers": 1, "text_dim": 8, "ratio": 4.0, "in_channels": 2, "patch_size": 1}
    one, halves = forward_flops(config, [20], [4], 1), forward_flops(config, [10, 10], [2, 2], 1)
    assert one.linear == halves.linear
    assert one.attention == 2 * halves.attention
    assert Flops(1, 2, 0).total == 3
