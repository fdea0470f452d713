"""SIGTERM as a wish: the loop ends its step, saves and returns. Ctrl-C as well, where what is made is being written."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


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


@dataclass
class Interrupt(Stop):
    """Ctrl-C while things are made and written, one after the other."""

    making: bool = False

    def until(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items up to the Ctrl-C. One that was being made then is lost; those before it are not, and whoever
        takes them is not disturbed."""
        while not self.asked:
            try:
                self.making = True
                item = next(items)
            except StopIteration:
                return
            except KeyboardInterrupt:
                self.asked = True
                return
            finally:
                self.making = False
            yield item


@contextmanager
def hold_interrupts() -> Iterator[Interrupt]:
    """For as long as the block runs, Ctrl-C ends what `Interrupt.until` gives, wherever it finds the program; the
    second one raises KeyboardInterrupt at once. In the main thread; where SIGINT is ignored it stays so."""
    interrupt = Interrupt()

    def ask(number: int, frame: FrameType | None) -> None:
        again, interrupt.asked = interrupt.asked, True
        if interrupt.making or again:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield interrupt
        return
    signal.signal(signal.SIGINT, ask)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
