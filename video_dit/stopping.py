"""SIGTERM as a wish: the loop ends its step, saves and returns."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class StoppedError(Exception):
    """Work that nobody waits for any more was left off."""


@dataclass
class Stop:
    """Whether this process was asked to end. Ranks are asked at different moments, if at all: they must agree on a
    step, by a sum over them, before one leaves the loop."""

    asked: bool = False

    def check(self) -> None:
        """Raises `StoppedError` when asked to end: for long work of one rank, between two collectives."""
        if self.asked:
            raise StoppedError

    def on_step_end(self, pipe: object, number: int, timestep: object, tensors: dict) -> dict:
        """`check` as the ``callback_on_step_end`` of a pipeline."""
        self.check()
        return tensors


@contextmanager
def stop_on_sigterm() -> Iterator[Stop]:
    """Let SIGTERM set ``asked`` for as long as the block runs; in the main thread."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
