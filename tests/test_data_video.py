"""Reading by time stamps, refusing what is damaged, writing whole files or none."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from data.transforms import to_uint8
from data.video import EXACT_COLOUR, VideoError, probe_video, read_video, write_video

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
    """Every frame by plain sequential decoding, as stored, turned by the plain angle."""
    with av.open(path, metadata_errors="replace") as container:
        return [
            np.rot90(frame.to_ndarray(format="rgb24", interpolation=EXACT_COLOUR), round(frame.rotation / 90))
            for frame in container.decode(video=0)
        ]


def psnr(a: Tensor, b: Tensor) -> float:
    return (10 * torch.log10(255**2 / (a.double() - b.double()).square().mean())).item()


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
    tail = read_video(CLIPS / name, start=0.7 * info.duration).frames
    assert 0 < len(tail) < len(truth) or len(truth) == 3
    assert np.array_equal(tail.numpy(), np.stack(truth[-len(tail) :]))


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


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_display_matrix_turns_and_mirrors(tmp_path: Path, degrees: int, hflip: bool) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = (255, 0, 0)
    picture[:32, 48:] = (0, 255, 0)
    picture[32:, :48] = (0, 0, 255)
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        stream.set_display_rotation(degrees, hflip=hflip)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    upright = np.rot90(picture, degrees // 90)
    upright = upright[:, ::-1] if hflip else upright
    frames = read_video(tmp_path / "a.mp4").frames
    assert frames.shape[1:] == upright.shape
    assert psnr(frames[0], torch.from_numpy(upright.copy())) > 25


DAMAGED = [
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
    ("no_such_file.mp4", "no such file", 0),
]


@needs_clips
@pytest.mark.parametrize(("name", "reason", "good_frames"), DAMAGED)
def test_damaged_files_are_refused(name: str, reason: str, good_frames: int) -> None:
    with pytest.raises(VideoError, match=reason) as caught:
        read_video(CLIPS / "odd" / name)
    assert caught.value.path == CLIPS / "odd" / name
    assert caught.value.good_frames == good_frames
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # crosses worker processes


@needs_clips
def test_sound_part_of_a_damaged_file_can_be_read() -> None:
    assert len(read_video(CLIPS / "odd/decord__corrupted.mp4", seconds=2.0).frames) == 20


@needs_clips
def test_memory_is_bounded() -> None:
    with pytest.raises(VideoError, match="max_bytes"):
        read_video(CLIPS / "odd/media__long_4k_av1.mp4")


def test_round_trip(tmp_path: Path) -> None:
    frames = moving_frames(25)
    write_video(tmp_path / "a.mp4", frames, 24000 / 1001)
    clip = read_video(tmp_path / "a.mp4")
    assert clip.frames.shape == frames.shape
    assert clip.frames.dtype == torch.uint8
    assert clip.frame_rate == pytest.approx(24000 / 1001, abs=1e-9)
    assert psnr(clip.frames, frames) > 42
    assert all(abs(float(d)) < 0.75 for d in (clip.frames.float() - frames.float()).mean((0, 1, 2)))  # no tint
    with av.open(tmp_path / "a.mp4") as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)  # bt709
        assert context.color_range == 1  # limited
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart


def test_a_reproducible_file_depends_on_no_processor(tmp_path: Path) -> None:
    """x264 writes its settings into the file: one thread, so that the number of cores says nothing."""
    frames = moving_frames(9)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames, 8, reproducible=True)
    first = (tmp_path / "a.mp4").read_bytes()
    assert first == (tmp_path / "b.mp4").read_bytes()
    assert b" threads=1 " in first
    assert psnr(read_video(tmp_path / "a.mp4").frames, frames) > 38


def test_a_stream_of_chunks_equals_the_whole(tmp_path: Path) -> None:
    frames = moving_frames(13)
    write_video(tmp_path / "whole.mp4", frames, 8, reproducible=True)
    write_video(tmp_path / "parts.mp4", (part.numpy() for part in frames.split([1, 5, 7])), 8, reproducible=True)
    assert torch.equal(read_video(tmp_path / "whole.mp4").frames, read_video(tmp_path / "parts.mp4").frames)


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_write_leaves_nothing_new(tmp_path: Path, existing: bool) -> None:
    if existing:
        (tmp_path / "a.mp4").write_bytes(b"kept")

    def failing() -> Iterator[Tensor]:
        yield moving_frames(100)  # more than the encoder holds back, so that the file is begun
        assert list(tmp_path.glob(".a.mp4.*.tmp"))
        raise RuntimeError("the sampler failed")

    with pytest.raises(RuntimeError, match="sampler failed"):
        write_video(tmp_path / "a.mp4", failing(), 8)
    with pytest.raises(ValueError, match="keep one size"):
        write_video(tmp_path / "a.mp4", [moving_frames(2), moving_frames(2, 32, 32)], 8)
    with pytest.raises(ValueError, match="no frames"):
        write_video(tmp_path / "a.mp4", [], 8)
    assert [p.name for p in tmp_path.iterdir()] == (["a.mp4"] if existing else [])
    assert not existing or (tmp_path / "a.mp4").read_bytes() == b"kept"


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    frames = moving_frames(2)
    with pytest.raises(ValueError, match=r"even sizes: crop or resize to 96x62"):
        write_video(tmp_path / "a.mp4", moving_frames(2, 63, 96), 8)
    with pytest.raises(ValueError, match=r"must end in \.mp4"):
        write_video(tmp_path / "a.mkv", frames, 8)
    with pytest.raises(ValueError, match="does not exist"):
        write_video(tmp_path / "no" / "a.mp4", frames, 8)
    with pytest.raises(ValueError, match="frame_rate=0"):
        write_video(tmp_path / "a.mp4", frames, 0)
    with pytest.raises(ValueError, match="to_uint8"):
        write_video(tmp_path / "a.mp4", frames.float(), 8)
    with pytest.raises(ValueError, match=r"start=-1"):
        read_video(tmp_path / "a.mp4", start=-1)
    with pytest.raises(ValueError, match=r"seconds=0"):
        read_video(tmp_path / "a.mp4", seconds=0)
    write_video(tmp_path / "a.mp4", frames, 8)
    with pytest.raises(VideoError, match="past its end"):
        read_video(tmp_path / "a.mp4", start=0.25)


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
