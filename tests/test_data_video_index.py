"""What demuxing alone tells of a video."""

from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from data.video import write_video
from data.video_index import StampIndex, is_shown, read_index


def index_of(stamps: list[int], last_duration: int = 33, header_rate: Fraction | None = None) -> StampIndex:
    return StampIndex(stamps, stamps[:1], Fraction(1, 1000), last_duration, header_rate, "h264", False, None)


def test_index_of_a_written_file(tmp_path: Path) -> None:
    frames = torch.randint(0, 256, (300, 16, 16, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    write_video(tmp_path / "a.mp4", frames, 30)
    with av.open(tmp_path / "a.mp4") as container:
        index = read_index(container)
    assert len(index.stamps) == 300
    assert index.stamps == sorted(set(index.stamps))
    assert index.end == pytest.approx(10)
    assert index.frame_rate == 30
    assert not (index.variable or index.numbered or index.damage)
    assert set(index.keys) < set(index.stamps)
    assert len(index.keys) > 1


def test_the_header_rate_counts_only_if_the_stamps_bear_it_out() -> None:
    stamps = [round(i * 1000 / 30) for i in range(30)]
    assert index_of(stamps, header_rate=Fraction(30000, 1001)).frame_rate == 30000 / 1001
    assert index_of(stamps, header_rate=Fraction(1000)).frame_rate == pytest.approx(30, abs=0.1)
    assert index_of(stamps).frame_rate == pytest.approx(30, abs=0.1)


def test_rounded_stamps_are_not_a_variable_rate() -> None:
    assert not index_of([round(i * 1000 / 30) for i in range(30)]).variable
    assert index_of([0, 33, 67, 100, 200, 233]).variable
    assert not index_of([5]).variable


def test_times_count_from_the_first_frame() -> None:
    index = index_of([1075, 1108, 1141])
    assert index.times.tolist() == pytest.approx([0, 0.033, 0.066])
    assert index.end == pytest.approx(0.099)


def test_packets_of_mpeg4_without_a_picture() -> None:
    assert is_shown("mpeg4", bytes.fromhex("000001b0f5000001b651e0429e"))
    assert not is_shown("mpeg4", b"\x7f")


def test_hidden_frames_of_vp8_and_vp9() -> None:
    assert is_shown("vp8", bytes([0x10, 0]))
    assert not is_shown("vp8", bytes([0x00, 0]))
    assert is_shown("vp9", bytes([0b10000010, 0]))
    assert not is_shown("vp9", bytes([0b10000100, 0]))
    assert is_shown("vp9", bytes([0b10001000, 0]))  # shows a frame made earlier
    assert is_shown("vp9", bytes([0b10000100, 0xC0]))  # a superframe
    assert not is_shown("vp9", bytes([0b10110010, 0]))  # profile 3: here bit 1 is the frame type
    assert is_shown("h264", bytes([0, 0]))
