"""Streams give the numbers of one pass over the whole clip, however it is cut."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.transforms import fit, to_float
from data.video import read_video
from vae3d import VideoVAE
from vae3d.streaming import DecodeStream, EncodeStream

FRAMES = 161


@pytest.fixture(scope="module")
def real_clip(clips: Path) -> Tensor:
    """161 frames of a real clip, small: ``(1, 3, 161, 48, 64)`` in [-1, 1]."""
    clip = read_video(clips / "test" / "learning-area__rabbit.mp4", seconds=(FRAMES + 1) / 30)
    return to_float(fit(clip.frames[:FRAMES], 48, 64))[None]


def random_cuts(total: int, seed: int) -> list[int]:
    """Lengths from 0 up that add up to ``total``."""
    draw = random.Random(seed)
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(min(draw.choice([0, 1, 1, 2, 3, 4, 5, 9, 30]), total - sum(lengths)))
    return lengths


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_streamed_real_clip_equals_one_pass(tiny_vae: VideoVAE, real_clip: Tensor, seed: int) -> None:
    assert real_clip.shape == (1, 3, FRAMES, 48, 64)
    latents = tiny_vae.encode(real_clip).latent_dist.mode()
    frames = tiny_vae.decode(latents).sample
    assert latents.std() > 0.05
    assert frames.std() > 0.05

    encoder = EncodeStream(tiny_vae)
    parts = [encoder.push(chunk) for chunk in real_clip.split(random_cuts(FRAMES, seed), dim=2)]
    encoder.finish()
    streamed = torch.cat(parts, dim=2)
    assert streamed.shape == latents.shape
    assert (streamed - latents).abs().max() <= 1e-4

    decoder = DecodeStream(tiny_vae)
    parts = [decoder.push(chunk) for chunk in latents.split(random_cuts(latents.shape[2], seed), dim=2)]
    decoder.finish()
    streamed = torch.cat(parts, dim=2)
    assert streamed.shape == frames.shape
    assert (streamed - frames).abs().max() <= 1e-4


def test_a_latent_comes_as_soon_as_its_group_is_complete(tiny_vae: VideoVAE) -> None:
    stream = EncodeStream(tiny_vae)
    counts = [stream.push(torch.zeros(2, 3, n, 16, 24)).shape for n in (0, 1, 3, 1, 7, 0, 1)]
    assert [shape[2] for shape in counts] == [0, 1, 0, 1, 1, 0, 1]
    assert {(shape[0], shape[1], *shape[3:]) for shape in counts} == {(2, 4, 2, 3)}
    stream.finish()


def test_frames_come_with_each_latent(tiny_vae: VideoVAE) -> None:
    stream = DecodeStream(tiny_vae)
    shapes = [stream.push(torch.zeros(2, 4, n, 2, 3)).shape for n in (0, 1, 0, 1, 3)]
    assert [shape[2] for shape in shapes] == [0, 1, 0, 4, 12]
    assert {(shape[0], shape[1], *shape[3:]) for shape in shapes} == {(2, 3, 16, 24)}
    stream.finish()


def test_what_a_stream_keeps_does_not_grow(tiny_vae: VideoVAE) -> None:
    encoder, decoder = EncodeStream(tiny_vae), DecodeStream(tiny_vae)
    kept: list[int] = []
    for n in [1] + [4] * 6:
        decoder.push(encoder.push(torch.rand(1, 3, n, 16, 16)))
        tiles = [*(encoder._state or ()), *(decoder._state or ())]
        kept.append(sum(state.untyped_storage().nbytes() for tile in tiles for state in tile))
        assert all(state.untyped_storage().nbytes() == state.nbytes for tile in tiles for state in tile)  # no views
    assert kept[2] == kept[-1]


@torch.no_grad()
def test_the_caller_may_use_one_buffer_for_all_chunks(tiny_vae: VideoVAE) -> None:
    x = torch.rand(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    stream, buffer = EncodeStream(tiny_vae), torch.empty(1, 3, 3, 16, 16)
    parts = [stream.push(buffer.copy_(chunk)) for chunk in x.split(3, dim=2)]
    torch.testing.assert_close(torch.cat(parts, dim=2), tiny_vae.encode(x).latent_dist.mode(), atol=1e-4, rtol=0)


def test_streams_do_not_share_state(tiny_vae: VideoVAE) -> None:
    x = torch.rand(2, 1, 3, 9, 16, 16)
    streams = EncodeStream(tiny_vae), EncodeStream(tiny_vae)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i in range(9):
        for stream, part, clip in zip(streams, parts, x, strict=True):
            part.append(stream.push(clip[:, :, i : i + 1]))
    with torch.no_grad():
        for part, clip in zip(parts, x, strict=True):
            whole = tiny_vae.encode(clip).latent_dist.mode()
            torch.testing.assert_close(torch.cat(part, dim=2), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("pushed", "message"),
    [
        ([], "num_frames=0 must be 1 [+] 4k: push at least one frame"),
        ([0], "num_frames=0 must be 1 [+] 4k: push at least one frame"),
        ([1, 2], "2 frames stand beyond .* 1 [+] 4k, so push 2 more or 2 less"),
        ([5, 3], "3 frames stand beyond .* 1 [+] 4k, so push 1 more or 3 less"),
    ],
)
def test_a_broken_frame_rule_is_told_at_the_end(tiny_vae: VideoVAE, pushed: list[int], message: str) -> None:
    stream = EncodeStream(tiny_vae)
    for n in pushed:
        stream.push(torch.zeros(1, 3, n, 8, 8))
    with pytest.raises(ValueError, match=message) as error:
        stream.finish()
    assert "\n" not in str(error.value)


def test_decoding_nothing_is_an_error(tiny_vae: VideoVAE) -> None:
    stream = DecodeStream(tiny_vae)
    stream.push(torch.zeros(1, 4, 0, 2, 2))
    with pytest.raises(ValueError, match="at least one latent frame"):
        stream.finish()
