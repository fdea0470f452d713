"""What SIGTERM does within the block and outside it."""

import os
import signal

import pytest

from video_dit.stopping import StoppedError, stop_on_sigterm


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
