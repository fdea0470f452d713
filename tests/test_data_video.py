"""Reading by time stamps, refusing what is damaged, writing whole files or none."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from data.transforms import to_uint8
from data.video import ReadLimits, VideoError, VideoReader, probe_video, read_video, write_video
from data.video_picture import EXACT_COLOUR, picture

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
needs_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"real clips are not at {CLIPS}")


def moving_frames(t: int, h: int = 64, w: int = 96) -> Tensor:
    """Smooth coloured waves that move: uint8 `(t, h, w, 3)`."""
    time, row, column = torch.meshgrid(
        torch.arange(t) / 8, torch.linspace(0, 3, h), torch.linspace(0, 4, w), indexing="ij"
    )
    waves = torch.stack([torch.sin(time + row), torch.cos(2 * time - column), torch.sin(row * column / 2 - time)])
    return to_uint8(waves * 0.8)


def decode_in_order(path: Path) -> list[np.ndarray]:
    """Every frame by plain sequential decoding, with square pixels, turned by the plain angle."""
    with av.open(path, metadata_errors="replace") as container:
        aspect = container.streams.video[0].sample_aspect_ratio or 1
        return [
            np.rot90(
                frame.to_ndarray(format="rgb24", width=round(frame.width * aspect), interpolation=EXACT_COLOUR),
                round(frame.rotation / 90),
            )
            for frame in container.decode(video=0)
        ]


EXACT = [
    "train/sample-videos__again.mkv",
    "test/sample-videos__brother.mkv",
    "odd/decord__video_90.mov",
    "odd/decord__video_180.mov",
    "odd/decord__video_270.mov",
    "odd/torchcodec__h265_10bits.mp4",
    "odd/torchcodec__h265_video.mp4",
    "odd/torchcodec__var_fps_video.mp4",
    "odd/PySceneDetect__delayed_start.mp4",
    "odd/ExoPlayer__video_1.mp4",
    "odd/ExoPlayer__video_desks.3gp",
    "odd/media__roadtrip-vp92-10bit.webm",
    "odd/media__bear-vp9-odd-dimensions.webm",
    "odd/torchcodec__av1_video.mkv",
]


@needs_clips
@pytest.mark.parametrize("name", EXACT)
def test_frames_equal_sequential_decoding(name: str) -> None:
    truth = decode_in_order(CLIPS / name)
    info = probe_video(CLIPS / name)
    clip = read_video(CLIPS / name)
    assert info.num_frames == len(truth) == len(clip.frames)
    assert (info.height, info.width) == truth[0].shape[:2]
    assert clip.frame_rate == pytest.approx(info.frame_rate)
    assert all(np.array_equal(frame.numpy(), true) for frame, true in zip(clip.frames, truth, strict=True))
    times = VideoReader(CLIPS / name).index.times
    first = int(0.7 * len(truth))
    tail = read_video(CLIPS / name, start=float(times[first])).frames
    assert np.array_equal(tail.numpy(), np.stack(truth[first:]))


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "3", "g": "12", "x264-params": "b-pyramid=normal:open-gop=1"}),
        ("libx265", {"x265-params": "log-level=none:keyint=12:open-gop=1"}),
        ("libsvtav1", {"preset": "10", "g": "12"}),
        ("libvpx-vp9", {"deadline": "realtime", "g": "12"}),
        ("mpeg4", {"bf": "2", "g": "12"}),
    ],
)
def test_reads_that_begin_anywhere_give_the_frames_of_the_whole(
    tmp_path: Path, codec: str, options: dict[str, str]
) -> None:
    """Pictures before the first wanted one are left out where none builds on them; and only there."""
    path = tmp_path / "a.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for array in moving_frames(40).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    whole = read_video(path).frames
    assert len(whole) == 40
    times = VideoReader(path).index.times
    for first in range(38):
        part = read_video(path, start=float(times[first]), seconds=0.2).frames
        assert torch.equal(part, whole[first : first + len(part)]), first
        assert 2 <= len(part) <= 3


def test_time_stamps_that_jump_are_told(tmp_path: Path) -> None:
    """As of a camera whose clock was set: a still picture of months would be read in its place."""
    write_video(tmp_path / "a.mp4", moving_frames(8), 10)
    with av.open(tmp_path / "a.mp4") as container, av.open(tmp_path / "b.mkv", "w") as copy:
        stream = copy.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                late = int(1e6 / packet.time_base) if packet.pts * packet.time_base > 0.45 else 0
                packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, stream
                copy.mux(packet)
    for frame_rate in (None, 8.0):
        with pytest.raises(VideoError, match=r"its time stamps jump by 1e\+06 s, beyond max_still=3600"):
            read_video(tmp_path / "b.mkv", frame_rate=frame_rate)
    assert len(read_video(tmp_path / "b.mkv", seconds=0.3, limits=ReadLimits(max_still=1e7)).frames) == 3


def test_a_file_of_too_many_packets_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_frames(8), 10)
    assert VideoReader(tmp_path / "a.mp4", ReadLimits(max_packets=8))
    with pytest.raises(VideoError, match="it has more than max_packets=7"):
        VideoReader(tmp_path / "a.mp4", ReadLimits(max_packets=7))


@needs_clips
def test_seeks_reach_the_same_frames_as_reading_from_the_start() -> None:
    path = CLIPS / "odd/moviepy__smpte-2997.mp4"  # 251 frames, 17 key frames, a counter in the picture
    with av.open(path) as container:
        truth = {
            i: frame.to_ndarray(format="rgb24", interpolation=EXACT_COLOUR)
            for i, frame in enumerate(container.decode(video=0))
            if i in (14, 15, 16, 100, 101, 249, 250)
        }
    for first, count in ((14, 3), (100, 2), (249, 2)):
        frames = read_video(path, start=first / 25, seconds=count / 25).frames
        assert np.array_equal(frames.numpy(), np.stack([truth[first + i] for i in range(count)]))


@needs_clips
def test_packets_wrongly_marked_as_keys_are_not_trusted() -> None:
    path = CLIPS / "odd/media__sample_without_stss.mp4"  # 30 frames, all marked, only the first is a key
    truth = decode_in_order(path)
    assert np.array_equal(read_video(path, start=20 / 29.97).frames.numpy(), np.stack(truth[20:]))


@needs_clips
def test_counter_is_sampled_at_the_times_asked_for() -> None:
    path = CLIPS / "odd/PySceneDetect__counter.mp4"
    truth = decode_in_order(path)  # frame i is shown from i / 10 s on
    same = read_video(path, start=0.5, seconds=1.0, frame_rate=10)
    assert np.array_equal(same.frames.numpy(), np.stack(truth[5:15]))
    slower = read_video(path, start=0.5, seconds=1.0, frame_rate=4)
    assert slower.frame_rate == 4
    assert np.array_equal(slower.frames.numpy(), np.stack([truth[i] for i in (5, 7, 10, 12)]))
    faster = read_video(path, start=2.8, frame_rate=20)
    assert np.array_equal(faster.frames.numpy(), np.stack([truth[i] for i in (28, 28, 29, 29)]))


@needs_clips
def test_variable_rate_is_sampled_by_stamps_not_by_number() -> None:
    path = CLIPS / "odd/torchcodec__var_fps_video.mp4"
    truth = decode_in_order(path)
    with av.open(path) as container:
        times = np.array(sorted(float(p.pts * p.time_base) for p in container.demux(video=0) if p.size))
    frames = read_video(path, frame_rate=5).frames
    shown = [int(np.flatnonzero(times <= i / 5 + 0.004)[-1]) for i in range(len(frames))]
    assert probe_video(path).variable_fps
    assert len(np.unique(np.diff(shown))) > 1
    assert np.array_equal(frames.numpy(), np.stack([truth[i] for i in shown]))


@needs_clips
def test_edit_list_hides_what_it_cuts() -> None:
    info = probe_video(CLIPS / "odd/media__sample_edit_list.mp4")
    assert (info.num_frames, info.width, info.height) == (77, 1080, 1920)
    assert read_video(CLIPS / "odd/media__sample_edit_list.mp4", seconds=0.1).frames.shape[0] == 3


@needs_clips
def test_delayed_start_counts_from_the_first_frame() -> None:
    path = CLIPS / "odd/PySceneDetect__delayed_start.mp4"  # its first stamp is 1.075 s
    assert len(read_video(path, frame_rate=25).frames) == 24
    assert probe_video(path).duration == pytest.approx(0.96)


@needs_clips
def test_rotation_turns_the_picture_upright() -> None:
    sizes = {d: read_video(CLIPS / f"odd/decord__video_{d}.mov").frames.shape[1:3] for d in (0, 90, 180, 270)}
    assert sizes == {0: (320, 568), 90: (568, 320), 180: (320, 568), 270: (568, 320)}


@needs_clips
def test_sound_part_of_a_damaged_file_can_be_read() -> None:
    assert len(read_video(CLIPS / "odd/decord__corrupted.mp4", seconds=2.0).frames) == 20


@needs_clips
def test_memory_is_bounded() -> None:
    with pytest.raises(VideoError, match="max_bytes"):
        read_video(CLIPS / "odd/media__long_4k_av1.mp4")


def test_a_stream_without_stamps_is_counted(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_frames(20), 25)
    with av.open(tmp_path / "a.mp4") as source, av.open(tmp_path / "a.h264", "w", format="h264") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    truth = read_video(tmp_path / "a.mp4").frames
    assert torch.equal(read_video(tmp_path / "a.h264").frames, truth)
    assert torch.equal(read_video(tmp_path / "a.h264", start=0.4, seconds=0.2).frames, truth[10:15])


def test_wrong_ranges_are_named(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", moving_frames(2), 8)
    with pytest.raises(ValueError, match=r"start=-1"):
        read_video(tmp_path / "a.mp4", start=-1)
    with pytest.raises(ValueError, match=r"seconds=0"):
        read_video(tmp_path / "a.mp4", seconds=0)
    with pytest.raises(ValueError, match=r"frame_rate=nan"):
        read_video(tmp_path / "a.mp4", frame_rate=float("nan"))
    with pytest.raises(ValueError, match=r"chunk=0"):
        next(VideoReader(tmp_path / "a.mp4").stream(chunk=0))
    with pytest.raises(VideoError, match="past its end"):
        read_video(tmp_path / "a.mp4", start=0.25)


@pytest.mark.parametrize(("start", "seconds", "rate"), [(0, None, None), (0.3, 1.1, None), (0.5, None, 17), (0, 1, 3)])
def test_a_stream_has_the_frames_of_a_read(tmp_path: Path, start: float, seconds: float, rate: float) -> None:
    write_video(tmp_path / "a.mp4", moving_frames(40), 20)
    reader = VideoReader(tmp_path / "a.mp4")
    chunks = list(reader.stream(start, seconds, rate, chunk=7))
    assert {len(chunk) for chunk in chunks[:-1]} <= {7}
    assert torch.equal(torch.cat(chunks), reader.read(start, seconds, rate).frames)


@needs_clips
@pytest.mark.parametrize(
    ("name", "count"), [("test/bgslibrary__video02.avi", 748), ("train/bgslibrary__video03.avi", 1700)]
)
def test_packed_mpeg4_has_no_frame_where_its_packets_are_empty(name: str, count: int) -> None:
    reader = VideoReader(CLIPS / name)
    assert reader.info().num_frames == count
    with av.open(CLIPS / name) as container:
        truth = list(container.decode(video=0))[-9:]
    frames = reader.read(start=reader.index.times[count - 9] + 1e-3).frames.numpy()
    shown = range(9) if count == 748 else (1, 2, 3, 4, 5, 6, 7, 8, 8)  # its last packet holds a frame once more
    assert np.array_equal(frames, np.stack([picture(truth[number]) for number in shown]))


@needs_clips
def test_transparent_parts_are_black() -> None:
    """The red dot, anti-aliased against nothing; the colours beneath are not seen."""
    frames = read_video(CLIPS / "odd/moviepy__transparent.webm", start=1, seconds=0.1).frames
    assert frames[:, :, :, 1:].float().mean() < 1
    assert frames[..., 0].max() > 200
    assert (frames.amax(-1) == 0).float().mean() > 0.9


def test_what_a_file_may_cost_is_settable(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, moving_frames(40), 20)
    for limits, error in (
        (ReadLimits(max_pixels=64 * 96 - 1), "frames of 96x64 go beyond max_pixels=6143"),
        (ReadLimits(max_frames=39), "more than max_frames=39"),
        (ReadLimits(max_bytes=40 * 64 * 96 * 3 - 1), "40 frames of 96x64 need over max_bytes"),
        (ReadLimits(max_seconds=1e-9), "takes more than max_seconds=1e-09"),
    ):
        with pytest.raises(VideoError, match=error):
            read_video(path, limits=limits)
    exactly = ReadLimits(max_pixels=64 * 96, max_frames=40, max_bytes=40 * 64 * 96 * 3)
    assert len(read_video(path, limits=exactly).frames) == 40
    streamed = VideoReader(path, ReadLimits(max_frames=8, max_bytes=1)).stream(chunk=4)  # each chunk anew
    assert sum(len(chunk) for chunk in streamed) == 40
