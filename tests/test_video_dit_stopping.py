"""What SIGTERM does within the block and outside it."""

import os
import signal
from collections.abc import Iterator

import pytest

from video_dit.stopping import StoppedError, hold_interrupts, stop_on_sigterm

pytestmark = pytest.mark.usefixtures("ctrl_c")


def test_sigterm_asks_and_does_not_end() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_sigterm() as stop:
        stop.check()
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(StoppedError):
            stop.check()
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_old_handler_is_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), stop_on_sigterm():
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before


def interrupted(numbers: list[int], at: int) -> Iterator[int]:
    """The numbers; while one is being made, there is a Ctrl-C."""
    for number in numbers:
        if number == at:
            signal.raise_signal(signal.SIGINT)
        yield number


def test_ctrl_c_ends_what_is_made_and_spares_what_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    with hold_interrupts() as interrupt:
        assert list(interrupt.until(interrupted([0, 1, 2, 3], at=2))) == [0, 1]
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):  # the second
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_ctrl_c_between_two_things_waits() -> None:
    taken = []
    with hold_interrupts() as interrupt:
        for number in interrupt.until(iter(range(4))):
            if number == 1:
                signal.raise_signal(signal.SIGINT)
            taken.append(number)
    assert taken == [0, 1]
    with hold_interrupts() as interrupt:
        assert list(interrupt.until(iter(range(4)))) == [0, 1, 2, 3]
    assert not interrupt.asked


def test_other_errors_go_through_and_the_handler_is_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), hold_interrupts() as interrupt:
        list(interrupt.until(1 // number for number in (1, 0)))
    assert signal.getsignal(signal.SIGINT) == before
    assert not interrupt.making


def test_where_ctrl_c_is_ignored_it_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with hold_interrupts() as interrupt:
            assert list(interrupt.until(interrupted([0, 1], at=1))) == [0, 1]
    finally:
        signal.signal(signal.SIGINT, before)
