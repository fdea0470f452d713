"""Full packs of clips of any shape, as a pure function of (seed, epoch, position)."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.dataset import Clip, ClipShape
from data.latents import TensorCache
from data.packing import (
    LatentShape,
    PackPlan,
    Packs,
    View,
    cost,
    evened,
    imbalance,
    load_ahead,
    lost_worker,
    pack_views,
)
from data.seeding import keyed_generator

MIXED = [LatentShape(frames, tokens) for frames, tokens in [(13, 16), (13, 15), (5, 24), (1, 36), (9, 60)]]
WINDOW, BUDGET = 9, 1152


def plan(count: int = 100, budget: int = BUDGET, keyframes: float = 0.1, seed: int = 0) -> PackPlan:
    return PackPlan([MIXED[n % len(MIXED)] for n in range(count)], WINDOW, budget, keyframes, seed)


def epoch_of(packs: PackPlan, first: int) -> list[list[View]]:
    """The packs from ``first`` on until every clip was met."""
    found: list[list[View]] = []
    while sum(map(len, found)) < len(packs.shapes):
        found.append(packs.pack(first + len(found)))
    return found


def test_packs_keep_the_budget_and_fill_it() -> None:
    packs = plan(500)
    fills = [sum(view.tokens for view in pack) / BUDGET for pack in epoch_of(packs, 0)]
    assert all(0 < fill <= 1 for fill in fills)
    assert sum(fills) / len(fills) >= 0.9


def test_each_clip_once_an_epoch_and_other_views_in_the_next() -> None:
    packs = plan()
    first = epoch_of(packs, 0)
    second = epoch_of(packs, len(first))
    for epoch in (first, second):
        assert sorted(view.index for pack in epoch for view in pack) == list(range(100))
    a, b = ({view.index: view for pack in epoch for view in pack} for epoch in (first, second))
    assert sum(a[n] != b[n] for n in a) > 30
    assert [[v.index for v in pack] for pack in first] != [[v.index for v in pack] for pack in second]


def mean_imbalance(packs: list[list[View]], step: int) -> float:
    """By how much the dearest pack of a step is above the mean, on average over the steps."""
    costs = [cost(pack, 0.01) for pack in packs]
    apart = [imbalance(costs[first : first + step]) for first in range(0, len(costs) - step + 1, step)]
    return sum(apart) / len(apart)


@pytest.mark.parametrize("step", [2, 8, 24])
def test_packs_of_a_step_cost_about_the_same(step: int) -> None:
    """Over the ends of epochs as well, where a step has packs of both."""
    shapes = [MIXED[n % len(MIXED)] for n in range(3000)]
    balanced = PackPlan(shapes, WINDOW, BUDGET, 0.1, 0, packs_per_step=step, attention_cost=0.01)
    count = 3 * len(epoch_of(balanced, 0)) // 2 // step * step
    plain = plan(3000)
    even, uneven = ([packs.pack(position) for position in range(count)] for packs in (balanced, plain))
    assert mean_imbalance(even, step) < min(0.06, mean_imbalance(uneven, step) / 3)


def test_the_pack_left_open_at_the_end_makes_no_rank_wait() -> None:
    shapes = [MIXED[n % len(MIXED)] for n in range(1500)]
    for seed in range(5):
        balanced = PackPlan(shapes, WINDOW, BUDGET, 0.1, seed, packs_per_step=8, attention_cost=0.01)
        costs = [cost(pack, 0.01) for pack in epoch_of(balanced, 0)]
        assert max(imbalance(costs[first : first + 8]) for first in range(0, len(costs) - 7, 8)) < 0.2


def test_views_are_shared_out_evenly_where_they_fit() -> None:
    views = [View(n, 0, 0, 1, False, tokens) for n, tokens in enumerate([50, 40, 30, 20, 10, 10])]
    first, second = evened([views[:5], views[5:]], 100, 0.0)
    assert [view.tokens for view in first] == [10, 20, 50]
    assert [view.tokens for view in second] == [10, 30, 40]
    first, second = evened([views[:5], views[5:]], 120, 1.0)  # attention alone counts: the long one for all the short
    assert 50 in [view.tokens for view in first]
    assert sum(view.tokens for view in first) < sum(view.tokens for view in second)
    as_they_were = [views[:2], [views[2]] * 3]
    assert evened(as_they_were, 90, 0.0) == as_they_were  # else one finds no room


def test_no_pack_of_an_epoch_is_near_empty() -> None:
    """As the last one is by itself, and a step of it would count as much as any other."""
    for seed in range(20):
        packs = epoch_of(plan(200, seed=seed), 0)
        assert len(packs) > 10
        fills = [sum(view.tokens for view in pack) / BUDGET for pack in packs]
        assert min(fills) > 0.8


def test_packs_of_a_step_change_the_order_and_the_cheapest_packs_alone() -> None:
    shapes = [MIXED[n % len(MIXED)] for n in range(400)]
    balanced, single = (PackPlan(shapes, WINDOW, BUDGET, 0.1, 0, step, attention_cost=0.01) for step in (10, 1))
    first, plain = epoch_of(balanced, 0), epoch_of(single, 0)
    assert first != plain
    assert len(plain) > 30
    assert len({str(pack) for pack in first} - {str(pack) for pack in plain}) <= 10
    assert sorted(view.index for pack in first for view in pack) == list(range(400))
    costs = [cost(pack, 0.01) for pack in first]
    assert costs != sorted(costs)


def test_attention_costs_by_the_square() -> None:
    views = [View(0, 0, 0, 1, False, 100), View(1, 0, 0, 1, False, 300)]
    assert cost(views, 0.0) == 400
    assert cost(views, 1 / (6 * 50)) == pytest.approx(400 + (100**2 + 300**2) / 300)


def test_imbalance_is_what_the_costliest_takes_above_the_mean() -> None:
    assert imbalance([3.0, 1.0, 2.0]) == pytest.approx(0.5)
    assert imbalance([7.0]) == imbalance([2.0, 2.0]) == 0


def test_no_state_decides() -> None:
    """Any order of asking, and a fresh plan, give the same; another seed does not."""
    packs = plan()
    in_order = [packs.pack(n) for n in range(40)]
    other = plan()
    assert other.pack(37) == in_order[37]
    assert [other.pack(n) for n in reversed(range(40))] == in_order[::-1]
    assert plan().pack(20) == in_order[20]
    assert [plan(seed=1).pack(n) for n in range(3)] != in_order[:3]


def test_views_lie_within_their_clips() -> None:
    views = [view for seed in range(30) for pack in epoch_of(plan(10, seed=seed), 0) for view in pack]
    for view in views:
        shape = MIXED[view.index % len(MIXED)]
        assert 1 <= view.length <= min(WINDOW, shape.frames)
        assert 0 <= view.start <= shape.frames - view.length
        assert view.tokens == (view.length + view.keyframe) * shape.tokens_per_frame


def test_shares_of_the_views() -> None:
    """Of long clips half begin in mid-clip, half are as long as they can be, all shorter lengths occur alike."""
    views = [view for pack in epoch_of(PackPlan([MIXED[0]] * 1500, WINDOW, BUDGET, 0.2, 0), 0) for view in pack]
    assert sum(view.start > 0 for view in views) / 1500 == pytest.approx(0.5, abs=0.05)
    assert sum(view.keyframe for view in views) / 1500 == pytest.approx(0.2, abs=0.04)
    lengths = Counter(view.length for view in views)
    assert lengths[WINDOW] / 1500 == pytest.approx(1 / 2 + 1 / 18, abs=0.05)
    for length in range(1, WINDOW):
        assert lengths[length] / 1500 == pytest.approx(1 / 18, abs=0.02)
    starts = {view.start for view in views if view.length == WINDOW}
    assert starts == set(range(MIXED[0].frames - WINDOW + 1))


def test_big_and_small_complete_each_other() -> None:
    views = [View(n, 0, 0, 1, False, tokens) for n, tokens in enumerate([70, 60, 55, 45, 40, 30])]
    packs = pack_views(views, 100, keyed_generator(0))
    assert [sum(view.tokens for view in pack) for pack in packs] == [100, 100, 100]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 9, 100, 0.1, 0), "there are no clips to train on: check data.manifest and data.num_clips"),
        ((MIXED, 9, 599, 0.1, 0), "data.token_budget=599 must hold the longest view: use at least 600"),
        ((MIXED, 9, 539, 0.0, 0), "data.token_budget=539 must hold the longest view: use at least 540"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        PackPlan(*arguments)
    assert "\n" not in str(error.value)


def test_the_longest_view_just_fits() -> None:
    packs = PackPlan(MIXED * 20, 9, 600, 0.9, 0)
    assert max(sum(v.tokens for v in pack) for pack in epoch_of(packs, 0)) == 600


class Clips:
    """Grey clips, the third of which is damaged."""

    def __len__(self) -> int:
        return 5

    def shape(self, index: int) -> ClipShape:
        return ClipShape(5, 16, 16, 8.0)

    def key(self, index: int) -> str:
        return f"grey-{index}"

    def load(self, index: int) -> Clip:
        if index == 2:
            raise ValueError("grey-2.mp4 is damaged")
        return Clip(torch.full((5, 16, 16, 3), index, dtype=torch.uint8), 8.0)

    def text(self, index: int, epoch: int) -> str:
        return f"grey {index}, for the {epoch}th time"


def grey_packs(folder: Path) -> Packs:
    return Packs(Clips(), TensorCache(folder), PackPlan([LatentShape(2, 4)] * 5, 2, 1000, 0.1, 0))


def test_items_are_stored_tensors_where_there_are_some(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    packs = grey_packs(tmp_path)
    packs.cache.put("grey-4", {"latents": torch.ones(3)})
    with caplog.at_level(logging.WARNING):
        items = {item.view.index: item for item in packs[0].items}
    assert sorted(items) == [0, 1, 3, 4]
    assert packs[0].left_out == 1
    assert "left out: grey-2.mp4 is damaged" in caplog.text
    for index in (0, 1, 3):
        item = items[index]
        assert item.encoded is None
        assert item.clip is not None
        assert (item.clip.frames == index).all()
    assert items[4].clip is None
    assert [items[index].text for index in (0, 4)] == ["grey 0, for the 0th time", "grey 4, for the 0th time"]
    epochs = {item.view.epoch: item.text for position in range(3) for item in packs[position].items}
    assert epochs.keys() == {0, 1, 2}  # a pack holds all
    assert all(text.endswith(f"for the {epoch}th time") for epoch, text in epochs.items())
    assert torch.equal(items[4].encoded["latents"], torch.ones(3))


def test_where_no_clip_can_be_read_the_pack_is_empty() -> None:
    class Damaged(Clips):
        def load(self, index: int) -> Clip:
            raise ValueError(f"grey-{index}.mp4 is damaged")

    packs = Packs(Damaged(), TensorCache(None), PackPlan([LatentShape(2, 4)] * 5, 2, 16, 0.0, 0))
    assert packs[2].items == []
    assert packs[2].left_out > 0


def test_a_neighbour_takes_the_place_of_a_damaged_pack() -> None:
    plan = PackPlan([LatentShape(2, 4)] * 5, 2, 16, 0.0, 0)
    first, second = ([view.index for view in plan.pack(position)] for position in (0, 1))

    class FirstDamaged(Clips):
        def load(self, index: int) -> Clip:
            if index in first:
                raise ValueError(f"grey-{index}.mp4 is damaged")
            return Clip(torch.zeros(5, 16, 16, 3, dtype=torch.uint8), 8.0)

    packs = Packs(FirstDamaged(), TensorCache(None), plan)
    assert [item.view.index for item in packs[0].items] == second
    assert packs[0].left_out == len(first)
    assert packs[1].left_out == 0


def test_a_loader_gives_whole_packs(tmp_path: Path) -> None:
    packs = grey_packs(tmp_path)
    loaded = list(DataLoader(packs, batch_size=None, sampler=[0, 3]))
    assert [[i.view for i in pack.items] for pack in loaded] == [[i.view for i in packs[n].items] for n in (0, 3)]


class Deadly(Dataset):
    """An item of it ends the process that reads it."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, position: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return position


def test_a_worker_that_was_ended_from_outside_is_told_of() -> None:
    with pytest.raises(RuntimeError) as caught:
        next(load_ahead(Deadly(), range(3), 1))
    assert "data.workers" in lost_worker(caught.value) and not lost_worker(RuntimeError("another"))


SLOW_READER = '''
import os
import signal
import time

from torch.utils.data import Dataset

from data.packing import load_ahead


class Slow(Dataset):
    """Whose second item takes for ever; this process is asked to end while it hands it to a worker."""

    def __len__(self):
        return 9

    def __getitem__(self, position):
        time.sleep(1000 * position)
        return position

    def __getstate__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}


if __name__ == "__main__":
    asked = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    items = load_ahead(Slow(), range(9), 1)
    assert next(items) == 0
    print("asked", asked == [signal.SIGTERM])
'''


@pytest.mark.slow
def test_sigterm_is_heard_while_workers_begin_and_a_long_read_keeps_no_process(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(SLOW_READER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    began = time.monotonic()
    command = [sys.executable, "reader.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "asked True\n", "")
    assert time.monotonic() - began < 60
