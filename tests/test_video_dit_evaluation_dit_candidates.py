"""Transformers of one size: as many parameters, as many tokens, and inputs that each takes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_dit.evaluation.dit_candidates import (
    ALIKE,
    DiTCandidate,
    Levels,
    Peer,
    Size,
    Work,
    blocks_of,
    count_flops,
    count_parameters,
    our_candidate,
    peer_candidate,
)

SIZE, WORK = Size(2, 64, 2), Work(2, (3, 2, 4), 5, 64)
PEERS: list[Peer] = ["wan", "cogvideox", "ltx"]


def all_candidates(size: Size = SIZE, work: Work = WORK) -> list[DiTCandidate]:
    ours = our_candidate(size, work)
    return [ours, *(peer_candidate(peer, size, work, count_parameters(ours)) for peer in PEERS)]


def test_parameters_and_flops_are_alike_at_the_size_that_is_required() -> None:
    size, work = Size(12, 384, 6), Work(1, (10, 8, 8), 64, 384)
    found = all_candidates(size, work)
    parameters = [count_parameters(candidate) for candidate in found]
    assert parameters[0] == pytest.approx(30e6, rel=ALIKE)
    assert parameters == pytest.approx([parameters[0]] * 4, rel=ALIKE)
    flops = [count_flops(candidate, work, "one") for candidate in found]
    assert flops == pytest.approx([flops[0]] * 4, rel=0.05)
    assert work.tokens == 640


@pytest.mark.parametrize("place", range(4), ids=["ours", *PEERS])
def test_each_predicts_what_it_is_given(place: int) -> None:
    candidate = all_candidates()[place]
    module = candidate.build()
    assert len(blocks_of(module)) == SIZE.layers
    for levels in candidate.levels:
        inputs = candidate.inputs(WORK, levels, "cpu", torch.float32)
        with torch.no_grad():
            output = module(**inputs)
        prediction = output if isinstance(output, torch.Tensor) else output[0]
        assert prediction.shape == inputs["hidden_states"].shape
        assert prediction.abs().max() > 0


def test_all_see_the_same_numbers_and_weights_do_not_begin_at_zero() -> None:
    ours, wan, cogvideox, ltx = (one.inputs(WORK, "one", "cpu", torch.float32) for one in all_candidates())
    assert torch.equal(wan["hidden_states"], cogvideox["hidden_states"].transpose(1, 2))
    assert torch.equal(ltx["hidden_states"].flatten(0, 1), ours["hidden_states"])
    assert torch.equal(1000 * ours["levels"][ours["level_index"]][:: WORK.tokens // 2], wan["timestep"])
    assert all(p.abs().max() > 0 for p in our_candidate(SIZE, WORK).build().parameters() if p.ndim > 1)


@pytest.mark.parametrize(("levels", "distinct"), [("one", 2), ("per frame", 6)])
def test_levels_are_those_of_clips_or_of_frames(levels: Levels, distinct: int) -> None:
    ours, wan, _, ltx = all_candidates()
    index = ours.inputs(WORK, levels, "cpu", torch.float32)["level_index"]
    assert len(index.unique()) == distinct
    for peer in (wan, ltx):
        steps = peer.inputs(WORK, levels, "cpu", torch.float32)["timestep"]
        assert len(steps.unique()) == distinct
        assert steps.numel() == (2 if levels == "one" else WORK.tokens)


def test_only_tensors_of_channels_take_the_dtype() -> None:
    for candidate in all_candidates():
        inputs = candidate.inputs(WORK, "one", "cpu", torch.bfloat16)
        assert inputs["hidden_states"].dtype == torch.bfloat16
        levels = inputs["levels" if candidate.family == "ours" else "timestep"]
        assert levels.dtype == torch.float32


def test_flops_of_peers_are_those_that_torch_counts() -> None:
    wan = all_candidates()[1]
    plain = sdpa_kernel(SDPBackend.MATH)  # torch does not count that of CPUs
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
        wan.build()(**wan.inputs(WORK, "one", "cpu", torch.float32))
    assert count_flops(wan, WORK, "one") == counter.get_total_flops()
    assert count_flops(wan, WORK, "per frame") > count_flops(wan, WORK, "one")


def test_what_cannot_be_alike_is_told() -> None:
    with pytest.raises(ValueError, match=r"--against ltx: of this size it has .* ours 100,000,000: use a --text-width"):
        peer_candidate("ltx", SIZE, WORK, 100_000_000)
    with pytest.raises(ValueError, match="--width 64 --heads 3: "):
        our_candidate(Size(2, 64, 3), WORK)
