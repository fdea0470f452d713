"""The same step for many files, by worker processes that may die of a file, or on a Ray cluster."""

import logging
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH_SIZE = 16  # items that a Ray actor takes at a time


def by_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result | None]]:
    """Items with their results, in the order in which they are done; None for an item that ends the process that works
    on it, as a decoder's bug or the lack of memory does. With 0 workers this process does it all.

    When a process dies, the items that were at work are tried again, each alone: all but the culprit come to their end.
    """
    if workers == 0:
        yield from ((item, function(item)) for item in items)
        return
    rest = deque(items)
    while rest:
        suspects = yield from _until_one_dies(function, rest, workers)
        for item in suspects:
            result = None
            for done in _until_one_dies(function, deque([item]), 1):
                result = done[1]
            yield item, result


def _until_one_dies(
    function: Callable[[Item], Result], rest: deque[Item], workers: int
) -> Generator[tuple[Item, Result], None, list[Item]]:
    """Take items from ``rest`` and give their results; returns those at work when a process died."""
    # a forked process can hang on locks that its parent held
    pool = ProcessPoolExecutor(min(workers, len(rest)), mp_context=get_context("spawn"), initializer=_begin)
    at_work: dict[Future[Result], Item] = {}
    died: list[Item] = []
    others = active_children()
    try:
        while (rest and not died) or at_work:
            while rest and not died and len(at_work) < 2 * workers:
                try:
                    future = pool.submit(function, rest[0])
                except BrokenProcessPool:
                    break
                at_work[future] = rest.popleft()
            for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                item = at_work.pop(future)
                if isinstance(future.exception(), BrokenProcessPool):
                    died.append(item)
                else:
                    yield item, future.result()
    except BaseException:  # stopped: no waiting for what is at work
        for child in active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return died


def _begin() -> None:
    """In each worker: end at once at Ctrl-C, and when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()


class RayStep:
    """What an actor of Ray Data does with a batch."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], workers: int) -> None:
        self.function, self.workers = make(), workers

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        pairs = list(by_processes(self.function, list(batch["item"]), self.workers))
        return {"item": [item for item, _ in pairs], "result": [result for _, result in pairs]}


def by_ray(
    make: Callable[[], Callable[[Item], Result]],
    items: Sequence[Item],
    workers: int,
    num_gpus: float | None = None,
    most: int | None = None,
) -> Iterator[tuple[Item, Result | None]]:
    """As `by_processes`, by Ray Data: on the cluster that ``RAY_ADDRESS`` names, whose machines have this package too,
    or on this machine.

    Args:
        make: gives the function; called once in each actor, for what is dear to load.
        items: what Ray can carry, as it can all that can be pickled.
        workers: of each actor: 1 guards it from items that end their process, 0 does without another process.
        num_gpus: that one actor takes.
        most: actors at a time; None for as many as the cluster has room for.
    Raises:
        ValueError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("--engine ray: Ray is not installed: pip install 'video-dit[ray]'") from None
    if not items:
        return
    ray.init(ignore_reinit_error=True, logging_level=logging.ERROR, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    data = ray.data.from_items(list(items), override_num_blocks=-(-len(items) // BATCH_SIZE)).map_batches(
        RayStep,
        fn_constructor_args=(make, workers),
        batch_size=BATCH_SIZE,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
        num_gpus=num_gpus,
    )
    for row in data.iter_rows():
        yield row["item"], row["result"]
