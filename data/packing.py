"""Full packs: views of clips of any shape, put together up to a budget of tokens.

The order is a pure function of (seed, epoch, position, packs a step): no state to save, and the same for as many ranks
times packs of each.
"""

import atexit
import logging
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, get_all_start_methods, set_forkserver_preload
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.dataset import Clip, ClipSource
from data.latents import TensorCache
from data.seeding import draw_integer, keyed_generator
from data.shards import Shards

logger = logging.getLogger(__name__)

EVENED = 8  # packs that share what the last of an epoch has, so that each is at least 7/8 as full as the others
OPEN_PACKS = 32  # among which a view finds its place; of 8 a hundredth more stays empty, of 64 no less


@dataclass(frozen=True)
class View:
    """What one sample takes of a clip.

    index: of the clip. epoch: how many times each clip was seen before. start, length: latent frames taken; ``start`` 0
    begins with the one-frame latent. keyframe: a further one-frame latent joins. tokens: in all.
    """

    index: int
    epoch: int
    start: int
    length: int
    keyframe: bool
    tokens: int


@dataclass(frozen=True)
class LatentShape:
    """A clip's latent frames, and tokens in each."""

    frames: int
    tokens_per_frame: int


class PackPlan:
    """Which views make up pack ``position``, counted over all epochs and ranks.

    Args:
        shapes: of the clips, by index.
        window: the most latent frames of a view.
        token_budget: the most tokens of a pack.
        keyframe_share: share of the views that a keyframe joins.
        seed: of the order and of the views.
        packs_per_step: of all ranks; those of one step cost about the same, so that no rank waits for another.
        attention_cost: of a view's token for each other one, where all that does not grow with their number costs 1;
            for a transformer of width d it is 1 / (6 d) (see `cost`).
    Raises:
        ValueError: there is no clip, or the longest view does not fit the budget.
    """

    def __init__(
        self,
        shapes: Sequence[LatentShape],
        window: int,
        token_budget: int,
        keyframe_share: float,
        seed: int,
        packs_per_step: int = 1,
        attention_cost: float = 0.0,
    ) -> None:
        if not shapes:
            raise ValueError("there are no clips to train on: check data.manifest and data.num_clips")
        most = max((min(s.frames, window) + (keyframe_share > 0)) * s.tokens_per_frame for s in shapes)
        if token_budget < most:
            raise ValueError(f"data.token_budget={token_budget} must hold the longest view: use at least {most}")
        self.shapes, self.window, self.token_budget = list(shapes), window, token_budget
        self.keyframe_share, self.seed = keyframe_share, seed
        self.packs_per_step, self.attention_cost = packs_per_step, attention_cost
        self._first_position = [0]  # of each epoch planned so far
        self._packs: tuple[int, list[list[View]]] = (-1, [])  # of the epoch last asked for

    def pack(self, position: int) -> list[View]:
        """The views of one pack; neighbouring positions of an epoch share no clip."""
        epoch = 0
        while True:
            if epoch + 1 < len(self._first_position) and position >= self._first_position[epoch + 1]:
                epoch += 1
                continue
            packs = self._epoch(epoch)
            first = self._first_position[epoch]
            if position < first + len(packs):
                return packs[position - first]
            if epoch + 1 == len(self._first_position):
                self._first_position.append(first + len(packs))
            epoch += 1

    def _epoch(self, epoch: int) -> list[list[View]]:
        if self._packs[0] != epoch:
            views = [self._view(epoch, index) for index in range(len(self.shapes))]
            generator = keyed_generator(self.seed, epoch, "order")
            packs = pack_views(views, self.token_budget, generator)
            begun = self._first_position[epoch] % self.packs_per_step
            self._packs = (epoch, self._in_steps(packs, begun, generator))
        return self._packs[1]

    def _in_steps(self, packs: list[list[View]], begun: int, generator: torch.Generator) -> list[list[View]]:
        """Packs of like cost one after the other, a step's at a time; the steps in random order.

        The first complete the step that the epoch before has ``begun`` with so many packs, the last begin one that the
        next epoch completes: both are those of middling cost.
        """
        step = self.packs_per_step
        packs = sorted(packs, key=lambda pack: cost(pack, self.attention_cost))
        ends = min(len(packs), -begun % step)
        begins = (len(packs) - ends) % step
        middle = (len(packs) - ends - begins) // 2
        completing, beginning = packs[middle : middle + ends], packs[middle + ends : middle + ends + begins]
        rest = packs[:middle] + packs[middle + ends + begins :]
        if rest:  # the cheapest is what was left open at the end, and may be near empty: no rank waits beside it,
            some = max(step, EVENED)  # and no step has next to nothing to learn from
            rest[:some] = evened(rest[:some], self.token_budget, self.attention_cost)
        order = torch.randperm(len(rest) // step, generator=generator).tolist()
        steps = [rest[place * step : (place + 1) * step] for place in order]
        return [*completing, *(pack for one in steps for pack in one), *beginning]

    def _view(self, epoch: int, index: int) -> View:
        """Half of the views begin in mid-clip, where there is no one-frame latent; half are of any length below the
        window's, down to a single image."""
        shape = self.shapes[index]
        generator = keyed_generator(self.seed, epoch, index, "view")
        longest = min(self.window, shape.frames)
        shorter = float(torch.rand((), generator=generator)) < 0.5
        length = 1 + draw_integer(longest, generator) if shorter else longest
        latest = shape.frames - length
        from_middle = latest > 0 and float(torch.rand((), generator=generator)) < 0.5
        start = 1 + draw_integer(latest, generator) if from_middle else 0
        keyframe = float(torch.rand((), generator=generator)) < self.keyframe_share
        return View(index, epoch, start, length, keyframe, (length + keyframe) * shape.tokens_per_frame)


def cost(views: Sequence[View], attention_cost: float) -> float:
    """What a transformer does for a pack, in tokens of a very short one: for n tokens, attention takes 4 n² d FLOPs a
    layer and all else 24 n d², so a view of n tokens costs ``n (1 + n attention_cost)``, with 1 / (6 d)."""
    return sum(view.tokens * (1 + view.tokens * attention_cost) for view in views)


def imbalance(costs: Sequence[float]) -> float:
    """What the costliest rank of a step takes above the mean, as a share of it: so long do the others wait."""
    return max(costs) * len(costs) / sum(costs) - 1


def pack_views(views: Sequence[View], token_budget: int, generator: torch.Generator) -> list[list[View]]:
    """Put shuffled views into packs of at most ``token_budget`` tokens.

    Best fit among a few open packs: each view goes where it leaves the least room, so that long and short views
    complete each other. The views of a pack are in the order of their number of tokens: equal ones together.
    """
    open_packs: list[tuple[int, list[View]]] = []  # room left, views
    packs: list[list[View]] = []
    for place in torch.randperm(len(views), generator=generator).tolist():
        view = views[place]
        fitting = [n for n, (room, _) in enumerate(open_packs) if room >= view.tokens]
        if fitting:
            best = min(fitting, key=lambda n: open_packs[n][0])
            room, members = open_packs[best]
            open_packs[best] = (room - view.tokens, [*members, view])
        else:
            open_packs.append((token_budget - view.tokens, [view]))
            if len(open_packs) > OPEN_PACKS:
                fullest = min(range(len(open_packs)), key=lambda n: open_packs[n][0])
                packs.append(open_packs.pop(fullest)[1])
    packs += [members for _, members in open_packs]
    return [sorted(members, key=lambda view: view.tokens) for members in packs]


def evened(packs: list[list[View]], token_budget: int, attention_cost: float) -> list[list[View]]:
    """The views of some packs shared out anew, the dearest first, each to the cheapest pack that has room; as they were
    where one finds none, or where that is less even."""
    shared: list[list[View]] = [[] for _ in packs]
    rooms, costs = [token_budget] * len(packs), [0.0] * len(packs)
    for view in sorted((view for pack in packs for view in pack), key=lambda view: -view.tokens):
        roomy = [number for number, room in enumerate(rooms) if room >= view.tokens]
        if not roomy:
            return packs
        cheapest = min(roomy, key=costs.__getitem__)
        shared[cheapest].append(view)
        rooms[cheapest] -= view.tokens
        costs[cheapest] += cost([view], attention_cost)
    shared = [sorted(pack, key=lambda view: view.tokens) for pack in shared]
    return min(packs, shared, key=lambda some: imbalance([cost(pack, attention_cost) for pack in some]))


@dataclass(frozen=True)
class PackItem:
    """A view with the stored tensors of its clip, or with the clip itself where nothing is stored yet."""

    view: View
    encoded: dict[str, Tensor] | None
    text: str
    clip: Clip | None


@dataclass(frozen=True)
class LoadedPack:
    """What a worker read: the samples of a pack, and how many of its clips could not be read."""

    items: list[PackItem]
    left_out: int


class Packs(Dataset):
    """Pack ``position`` as a `LoadedPack`; for the workers of a `DataLoader`.

    A clip that cannot be read is left out of its pack, with a warning that gives the reason. Should none be left,
    a neighbour takes its place: a pack before, or one of the next epoch's length; else the pack is empty.
    """

    def __init__(self, source: ClipSource, cache: TensorCache | Shards, plan: PackPlan) -> None:
        self.source, self.cache, self.plan = source, cache, plan

    def __getitem__(self, position: int) -> LoadedPack:
        left_out = 0
        before, after = range(position, -1, -1), range(position + 1, position + 1 + len(self.source))
        for place in (*before, *after):
            views = self.plan.pack(place)
            items = [item for view in views if (item := self._read(view)) is not None]
            left_out += len(views) - len(items)
            if items:
                break
        return LoadedPack(items, left_out)

    def _read(self, view: View) -> PackItem | None:
        try:
            stored = self.cache.get(self.source.key(view.index))
            clip = self.source.load(view.index) if stored is None else None
            return PackItem(view, stored, self.source.text(view.index, view.epoch), clip)
        except (ValueError, OSError) as error:  # `data.video.VideoError`, or the file is gone
            logger.warning("left out: %s", error)
            return None


def rank_positions(start: int, stop: int, accumulation: int, rank: int, world: int) -> range:
    """The positions that one rank takes from step ``start`` to ``stop``.

    Step s uses positions ``s·A·W`` to ``(s + 1)·A·W − 1``, shared out in turn over W ranks that take A each: the
    same A·W is the same training.
    """
    return range(start * accumulation * world + rank, stop * accumulation * world, world)


def load_ahead(dataset: Dataset, positions: Sequence[int], workers: int, program: Sequence[str] = ()) -> Iterator:
    """The dataset's items at ``positions``, in order, read ahead by worker processes (0: by this one).

    Workers are forked from a server that has imported the modules ``program`` and done nothing else: one forked from
    here could hang on locks that this process held, and each one begun anew would import for seconds, one after the
    other. SIGTERM, which launchers send to all processes of a rank, does not end them: the rank may need what they read
    to end its step.
    """
    method = ("forkserver" if "forkserver" in get_all_start_methods() else "spawn") if workers else None
    set_forkserver_preload([type(dataset).__module__, *program])
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=positions,
        num_workers=workers,
        multiprocessing_context=method,
        worker_init_fn=_outlast_sigterm,
    )
    if method == "forkserver":  # the server alone inherits it; to begin the workers takes seconds
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN) or signal.SIG_DFL
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGTERM, before)
    items: Any = iter(loader)
    if workers:
        atexit.register(_end_workers, items._workers)
    return items


def lost_worker(error: RuntimeError) -> str:
    """What to tell where an error says that a worker of `load_ahead` has died; "" for any other."""
    if not str(error).startswith("DataLoader worker"):
        return ""
    reason = " ".join(str(error).split())
    return f"one of data.workers ended, as where the host's memory runs out ({reason}): the same command goes on"


def _outlast_sigterm(worker: int) -> None:
    """PyTorch gives workers a handler that ends them."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_workers(workers: Sequence[BaseProcess]) -> None:
    """At the exit of this process, which else would send them SIGTERM and wait for ever; one may be in a long read."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise that a worker was killed
    for worker in workers:
        if worker.is_alive():
            worker.kill()
