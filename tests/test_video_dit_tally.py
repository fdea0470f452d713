"""What a step amounts to, on one rank and on two."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import free_port

from video_dit.batch import Pack
from video_dit.tally import LEVEL_BINS, LevelLosses, StepTally, Totals, peak_memory
from video_dit.text import TextConfig, byte_t5, tokenize
from video_dit.tokens import Segments

TOKENIZER, _ = byte_t5(TextConfig(width=16, num_layers=1, num_heads=2, hidden=32))
CPU = torch.device("cpu")


def pack(levels: list[float], made: list[bool]) -> Pack:
    """Of tokens of 3 elements with these levels."""
    n = len(levels)
    return Pack(
        *(torch.zeros(n, 3), torch.zeros(n, 3), torch.tensor(levels), torch.arange(n), torch.zeros(n, 3)),
        one_frame=torch.zeros(n, dtype=torch.bool),
        made=torch.tensor(made),
        weight=torch.ones(n),
        segments=Segments.from_lengths([n]),
        prompts=tokenize(TOKENIZER, [""]),
        clips=(0,),
        loss_elements=3 * sum(made),
    )


PACKS = [
    pack([0.05, 0.5, 0.51], [False, True, True]),
    pack([0.99, 1.0], [True, True]),
    pack([0.0, 0.3], [True, False]),
    pack([0.31], [True]),
]
ERRORS = [torch.tensor(errors) for errors in ([0.0, 3.0, 6.0], [9.0, 12.0], [15.0, 0.0], [18.0])]


def tally(numbers: list[int], errors: list[torch.Tensor] = ERRORS, **known: float) -> tuple[Totals, float]:
    packs = [PACKS[number] for number in numbers]
    found = StepTally(packs, {"tokens": sum(len(one.made) for one in packs), **known}, {"cost": numbers[0]}, CPU)
    for number, one in zip(numbers, packs, strict=True):
        found.add(one, errors[number])
    return found.totals(), float(found.scale)


def test_a_step_is_the_sum_of_its_packs(one_rank: None) -> None:
    totals, scale = tally([0, 1, 2, 3], left_out=2)
    elements = 3 * 6  # of the tokens that are made
    assert totals.loss == pytest.approx(sum(float(errors.sum()) for errors in ERRORS) / elements)
    assert scale == pytest.approx(4 / elements)
    assert totals.sums == {"tokens": 8, "left_out": 2}
    assert totals.apart == {"cost": [0]}
    assert totals.level_errors == [15, 0, 0, 18, 0, 9, 0, 0, 0, 21]
    assert totals.level_elements == [3, 0, 0, 3, 0, 6, 0, 0, 0, 6]
    assert (totals.not_finite, totals.packs_not_finite) == ([], [])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_pack_whose_loss_is_no_number_is_named(one_rank: None, value: float) -> None:
    errors = [*ERRORS[:2], torch.tensor([value, 0.0]), ERRORS[3]]
    totals, _ = tally([0, 1, 2, 3], errors)
    assert (totals.not_finite, totals.packs_not_finite) == ([0], [2])


def one_of_two(rank: int, port: int, found: Any) -> None:
    """A rank with half of the packs; the second has one that is not finite, in a further step."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    from video_dit.engine import process_group

    with process_group():
        mine = [rank, rank + 2]
        first = tally(mine, left_out=rank)
        bad = [torch.full_like(errors, torch.nan) if number == 3 else errors for number, errors in enumerate(ERRORS)]
        found.put((rank, first, tally(mine, bad)[0]))


@pytest.mark.slow
def test_all_ranks_know_the_same() -> None:
    context = multiprocessing.get_context("spawn")
    found, port = context.Queue(), free_port()
    ranks = [context.Process(target=one_of_two, args=(rank, port, found)) for rank in range(2)]
    for process in ranks:
        process.start()
    results = {rank: rest for rank, *rest in (found.get(timeout=120) for _ in ranks)}
    for process in ranks:
        process.join()
    (first, scale), stopped = results[0]
    assert results[1][0] == (first, scale)
    assert first.loss == pytest.approx(63 / 18)
    assert scale == pytest.approx(4 / 18)
    assert first.sums == {"tokens": 8, "left_out": 1}
    assert first.apart == {"cost": [0, 1]}
    assert first.level_errors == [15, 0, 0, 18, 0, 9, 0, 0, 0, 21]
    assert [results[rank][1].not_finite for rank in range(2)] == [[1], [1]]
    assert [stopped.packs_not_finite, results[1][1].packs_not_finite] == [[], [1]]


def test_losses_by_level_are_means_since_last_asked(one_rank: None) -> None:
    losses = LevelLosses()
    losses.add(tally([0, 1, 2, 3])[0])
    losses.add(tally([0])[0])
    assert losses.take() == {"0.0-0.1": 5, "0.3-0.4": 6, "0.5-0.6": 18 / 12, "0.9-1.0": 3.5}
    assert losses.take() == {}
    losses.add(tally([3])[0])
    assert losses.take() == {"0.3-0.4": 6}
    assert LEVEL_BINS == 10


def test_memory_is_the_most_that_was_held() -> None:
    pages = Path("/proc/self/statm")
    if not pages.is_file():
        pytest.skip("what is held now is told by /proc")
    held = torch.ones(2**26)
    now = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    most = peak_memory(CPU)
    assert most > 0.98 * now > 0.25
    del held
    assert peak_memory(CPU) >= most
