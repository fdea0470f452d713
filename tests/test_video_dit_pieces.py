"""Every mode of a pipeline of small random parts: what is given stays, and what is made stands where it should."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from data.transforms import to_float, to_uint8
from video_dit import VideoPipeline
from video_dit.request import Keyframe, Mode, Piece, PromptSchedule, VideoRequest
from video_dit.sampling import SamplingConfig

QUICK = {"num_inference_steps": 2, "guidance_scale": 2.0}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def video(frames: int, height: int = 32, width: int = 32, seed: int = 3) -> Tensor:
    """Random uint8 frames ``(t, h, w, 3)``."""
    return torch.randint(0, 256, (frames, height, width, 3), generator=seeded(seed), dtype=torch.uint8)


def levels(frames: np.ndarray) -> np.ndarray:
    """Of one video in [0, 1]."""
    assert len(frames) == 1
    return (frames[0] * 255).round().astype(np.uint8)


def options(**changed: Any) -> dict[str, Any]:
    return {"prompt": "a red ball", "generator": seeded(0)} | QUICK | changed


def request(mode: Mode, **changed: Any) -> VideoRequest:
    given: dict[str, Any] = {"video": video(13), "seconds": 1.5}
    if mode == "text":
        given = {"num_frames": 41, "height": 32, "width": 32}
    if mode == "connect":
        given["second"] = video(10, seed=4)
    sampling = SamplingConfig(2, 2.0)
    fixed = {"frame_rate": 8.0, "sampling": sampling, "generator": seeded(0)}
    return VideoRequest(mode, (PromptSchedule.parse("a ball"),), ("",), **(fixed | given | changed))


def test_both_is_backward_and_forward(tiny_pipe: VideoPipeline) -> None:
    given = video(14)
    whole = levels(tiny_pipe.extend(given, direction="both", seconds=1.0, **options()).frames)
    assert len(whole) == 8 + 14 + 8
    assert np.array_equal(whole[8:22], given.numpy())
    before = levels(tiny_pipe.extend(given, direction="backward", seconds=1.0, **options()).frames)
    assert np.array_equal(whole[:22], before)  # it is made first
    assert whole[22:].std() > 1


@pytest.mark.parametrize(("lengths", "seconds", "new"), [((5, 5), 0.1, 3), ((9, 30), 1.0, 7), ((14, 7), 3.1, 23)])
def test_two_videos_are_connected(tiny_pipe: VideoPipeline, lengths: tuple[int, int], seconds: float, new: int) -> None:
    first, second = video(lengths[0], 16, 48), video(lengths[1], 16, 48, seed=4)
    whole = levels(tiny_pipe.connect(first, second, seconds, **options()).frames)
    assert whole.shape == (sum(lengths) + new, 16, 48, 3)
    assert np.array_equal(whole[: len(first)], first.numpy())
    assert np.array_equal(whole[len(first) + new :], second.numpy())
    assert whole[len(first) : len(first) + new].std() > 1


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_both_sides_of_a_connection_matter(tiny_pipe: VideoPipeline, seconds: float) -> None:
    first, second = video(13), video(13, seed=4)
    made = tiny_pipe.connect(first, second, seconds, **options()).frames[0, 13:-13]
    for changed in ((255 - first, second), (first, 255 - second)):
        again = tiny_pipe.connect(*changed, seconds, **options()).frames[0, 13:-13]
        assert np.abs(again - made).max() > 1e-3


def test_a_loop_is_a_video_connected_with_itself(tiny_pipe: VideoPipeline) -> None:
    given = video(13)
    looped = levels(tiny_pipe.loop(given, 1.0, **options()).frames)
    connected = levels(tiny_pipe.connect(given, given, 1.0, **options()).frames)
    assert len(looped) == 13 + 7
    assert np.array_equal(looped, connected[:20])


def test_pictures_stand_where_they_were_put(tiny_pipe: VideoPipeline) -> None:
    pictures = video(4)
    times = (0.5, 2.0, 5.0)
    given = list(zip(times, pictures[1:], strict=True))
    whole = tiny_pipe(num_frames=41, image=pictures[0], keyframes=given, **options()).frames
    shown = levels(whole)
    for place, picture in zip((0, 4, 16, 40), pictures, strict=True):
        assert np.array_equal(shown[place], picture.numpy())
    plain = tiny_pipe(num_frames=41, image=pictures[0], **options()).frames
    assert np.abs(plain - whole)[0, 6:12].max() > 1e-3  # what is not near a picture changes with them as well


def test_an_image_of_pil_is_a_first_frame_for_each_video(tiny_pipe: VideoPipeline) -> None:
    from PIL import Image

    picture = video(1)[0].numpy()
    many = options(generator=[seeded(0), seeded(1)], prompt=["a", "b"], num_frames=9)
    pair = tiny_pipe(image=Image.fromarray(picture), **many).frames
    assert pair.shape[:2] == (2, 9)
    assert all(np.array_equal(levels(one[None])[0], picture) for one in pair)
    assert np.abs(pair[0, 1:] - pair[1, 1:]).max() > 1e-3


@pytest.mark.parametrize("mode", ["text", "forward", "backward", "both", "connect", "loop"])
def test_a_stream_is_the_whole_in_pieces(tiny_pipe: VideoPipeline, mode: Mode) -> None:
    asked = request(mode)
    found = list(tiny_pipe.stream(asked))
    assert all(piece.frames.shape[2] > 0 for piece in found)
    whole = to_uint8(torch.cat([piece.frames for piece in found], dim=2))[0]
    given = np.concatenate([[piece.given] * piece.frames.shape[2] for piece in found])
    known = {"text": [], "connect": [asked.video, asked.second]}.get(mode, [asked.video])
    assert given.sum() == sum(len(one) for one in known)
    if known:
        assert torch.equal(whole[torch.from_numpy(given)], torch.cat(known))
    again = to_uint8(torch.cat([piece.frames for piece in tiny_pipe.stream(request(mode))], dim=2))[0]
    assert torch.equal(whole, again)


@pytest.mark.parametrize("mode", ["text", "forward"])
def test_frames_come_as_soon_as_their_window_is_made(tiny_pipe: VideoPipeline, mode: Mode) -> None:
    steps: list[int] = []

    def count(pipe: Any, step: int, timestep: Tensor, values: dict) -> dict:
        steps.append(step)
        return {}

    changed = {"num_frames": 81} if mode == "text" else {"seconds": 10.0}
    stream = tiny_pipe.stream(request(mode, **changed), count)
    assert steps == []
    done = [(len(steps), piece.given) for piece in stream]
    made = [count for count, given in done if not given]
    assert made[0] == 2  # of the first window
    assert made == sorted(made)
    assert made[-1] == len(steps) > 8


def test_keyframes_in_a_stream_are_pieces_of_their_own(tiny_pipe: VideoPipeline) -> None:
    pictures = video(2)
    keyframes = tuple(Keyframe(seconds, picture) for seconds, picture in zip((0.0, 1.25), pictures, strict=True))
    found: list[Piece] = list(tiny_pipe.stream(request("text", num_frames=17, keyframes=keyframes)))
    given = np.concatenate([[piece.given] * piece.frames.shape[2] for piece in found])
    assert np.flatnonzero(given).tolist() == [0, 10]
    shown = torch.cat([piece.frames for piece in found if piece.given], dim=2)
    assert torch.equal(shown, to_float(pictures)[None])


def test_mistakes_are_raised_before_anything_is_made(tiny_pipe: VideoPipeline) -> None:
    with pytest.raises(ValueError, match="the video has 4 frames"):
        tiny_pipe.stream(request("loop", video=video(4)))
    with pytest.raises(ValueError, match="the video has 2 frames"):
        tiny_pipe.stream(request("connect", second=video(2)))
    with pytest.raises(ValueError, match="height=40 must be a multiple of 16"):
        tiny_pipe.stream(request("text", height=40))
    with pytest.raises(ValueError, match="width=24 must be a multiple of 16"):
        tiny_pipe.stream(request("forward", video=video(9, 32, 24)))


def test_a_schedule_changes_the_prompt_at_its_time(tiny_pipe: VideoPipeline) -> None:
    """A window begins there: of 5, then at most 3 latent frames at 8 a second."""
    asked = {"num_frames": 41, "output_type": "latent"}
    one, other = (tiny_pipe(**options(prompt=text, **asked)).frames for text in ("a ball", "two red cubes"))
    assert not torch.allclose(other[:, :, :5], one[:, :, :5], atol=1e-3)
    for seconds, first in ((2.2, 6), (2.125, 5), (3.5, 8), (5.1, 11)):  # latent frame n begins with frame 4n - 3
        changed = tiny_pipe(**options(prompt=f"0: a ball | {seconds}: two red cubes", **asked)).frames
        assert torch.equal(changed[:, :, :5], one[:, :, :5])
        assert torch.equal(changed, one) == (first == 11)
        same = tiny_pipe(**options(prompt=f"0: a ball | {seconds}: a ball", **asked)).frames
        assert torch.equal(changed[:, :, :first], same[:, :, :first])
        assert first == 11 or not torch.allclose(changed[:, :, first], same[:, :, first], atol=1e-3)


def test_the_noise_may_be_given(tiny_pipe: VideoPipeline) -> None:
    noise = torch.randn(1, 4, 11, 4, 4, generator=seeded(5))
    asked = {"num_frames": 41, "output_type": "latent", "latents": noise, "context_level": 0.0}
    made = tiny_pipe(**options(**asked)).frames
    assert torch.equal(tiny_pipe(**options(**asked | {"generator": seeded(9)})).frames, made)
    for place, first in ((2, 0), (7, 5)):  # in the first window and in the second
        other = noise.clone()
        other[:, :, place] += 1
        changed = tiny_pipe(**options(**asked | {"latents": other})).frames
        same = [bool(torch.equal(changed[:, :, n], made[:, :, n])) for n in range(11)]
        assert same == [n < first for n in range(11)]
    with pytest.raises(ValueError, match=r"latents of \(1, 4, 11, 4, 4\) must be of \(1, 4, 10, 4, 4\)"):
        tiny_pipe(**options(**asked | {"num_frames": 37}))


def test_embeddings_stand_for_prompts(tiny_pipe: VideoPipeline) -> None:
    prompts, away = ["a red ball", "two"], "blue"
    pair = {"generator": [seeded(0), seeded(0), seeded(1), seeded(1)], "num_videos_per_prompt": 2}
    words = tiny_pipe(**options(prompt=prompts, negative_prompt=away, **pair)).frames
    embeds, mask = tiny_pipe.encode_prompt(prompts)
    assert mask.sum(dim=1).tolist() == [11, 4]  # bytes, and the end
    negative, negative_mask = tiny_pipe.encode_prompt([away] * 2)
    asked = options(prompt=None, prompt_embeds=embeds, prompt_attention_mask=mask, **pair)
    both = asked | {"negative_prompt_embeds": negative, "negative_prompt_attention_mask": negative_mask}
    pair["generator"] = [seeded(0), seeded(0), seeded(1), seeded(1)]
    found = tiny_pipe(**both | {"generator": pair["generator"]}).frames
    assert np.abs(found - words).max() < 1e-4
    with pytest.raises(ValueError, match="prompt and prompt_embeds exclude each other"):
        tiny_pipe(**options(prompt_embeds=embeds))
    with pytest.raises(ValueError, match="have no text for one of the videos"):
        tiny_pipe(**asked | {"prompt_attention_mask": torch.zeros_like(mask)})
    with pytest.raises(ValueError, match=r"negative_prompt_embeds of \(1, 5, 16\) must be \(2, m, 16\)"):
        tiny_pipe(**both | {"negative_prompt_embeds": negative[:1]})
    with pytest.raises(ValueError, match=r"prompt_embeds of \(2, 11, 8\) must be \(2, m, 16\)"):
        tiny_pipe(**asked | {"prompt_embeds": embeds[..., :8]})


def test_each_prompt_has_its_own_negative_one(tiny_pipe: VideoPipeline) -> None:
    pair = {"generator": [seeded(0), seeded(1), seeded(2), seeded(3)], "num_videos_per_prompt": 2, "num_frames": 5}
    found = tiny_pipe(**options(prompt=["a", "b"], negative_prompt=["blue", "green"], **pair)).frames
    for number, (text, away) in enumerate((("a", "blue"), ("a", "blue"), ("b", "green"), ("b", "green"))):
        alone = options(prompt=text, negative_prompt=away, generator=seeded(number), num_frames=5)
        assert np.abs(tiny_pipe(**alone).frames - found[number]).max() < 1e-4


def test_what_is_held_does_not_grow_with_the_duration(tiny_pipe: VideoPipeline) -> None:
    """Of all pieces of a stream, one that waits for what follows at most is alive beside the newest."""
    keyframes = (Keyframe(18.0, video(1)[0]),)
    pieces: list[StorageWeakRef] = []
    alive: list[int] = []
    for piece in tiny_pipe.stream(request("text", num_frames=161, keyframes=keyframes)):
        pieces.append(StorageWeakRef(piece.frames.untyped_storage()))
        alive.append(len({one.cdata for one in pieces if not one.expired()}))  # some pieces are parts of one
    assert len(alive) > 10
    assert max(alive) <= 2


@pytest.mark.parametrize("frames", [1, 5, 14, 33])
def test_an_edit_of_no_strength_is_what_the_autoencoder_makes(tiny_pipe: VideoPipeline, frames: int) -> None:
    given = video(frames)
    whole = torch.cat([given, given[-1:].expand((1 - frames) % 4, -1, -1, -1)])
    expected = tiny_pipe.codec.decode(tiny_pipe.codec.encode(to_float(whole)[None]))[:, :, :frames]
    edited = torch.as_tensor(tiny_pipe.edit(given, 0.0, **options()).frames[0])
    assert torch.allclose(edited, (expected[0].permute(1, 2, 3, 0).clamp(-1, 1) + 1) / 2, atol=1e-5)


@pytest.mark.parametrize("frames", [13, 41])
def test_an_edit_of_full_strength_is_text_to_video(tiny_pipe: VideoPipeline, frames: int) -> None:
    """Bit for bit, from the same seed, over several windows as well."""
    edited = tiny_pipe.edit(video(frames), 1.0, **options()).frames
    assert np.array_equal(edited, tiny_pipe(num_frames=frames, **options()).frames)


def test_the_stronger_an_edit_the_less_is_left(tiny_pipe: VideoPipeline) -> None:
    given = video(17)
    none, *edits = (tiny_pipe.edit(given, s, **options(num_inference_steps=10)).frames for s in (0.0, 0.2, 0.5, 1.0))
    away = [float(np.square(edit - none).mean()) for edit in edits]
    assert 0 < away[0] < away[1] < away[2]


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_nothing_outside_a_mask_is_touched(tiny_pipe: VideoPipeline, strength: float) -> None:
    given, mask = video(14), torch.zeros(14, 32, 32, dtype=torch.bool)
    mask[6:9, 5:11, 20:31] = True
    edited = levels(tiny_pipe.edit(given, strength, mask, **options()).frames)
    assert np.array_equal(edited[~mask.numpy()], given.numpy()[~mask.numpy()])
    assert (edited != given.numpy())[mask.numpy()].mean() > 0.5
    if strength == 1:
        assert np.array_equal(levels(tiny_pipe.inpaint(given, mask, **options()).frames), edited)
    still = np.zeros((32, 32), dtype=np.uint8)
    still[:16] = 255
    painted = levels(tiny_pipe.inpaint(given, still, **options()).frames)
    assert np.array_equal(painted[:, 16:], given.numpy()[:, 16:])
    assert (painted[:, :16] != given.numpy()[:, :16]).mean() > 0.5


def test_what_is_kept_is_seen_by_what_is_made(tiny_pipe: VideoPipeline) -> None:
    given, mask = video(9), torch.zeros(32, 32, dtype=torch.bool)
    mask[:, 16:] = True
    made = tiny_pipe.inpaint(given, mask, **options()).frames[0, :, :, 16:]
    other = given.clone()
    other[:, :, :16] = 255 - other[:, :, :16]
    assert np.abs(tiny_pipe.inpaint(other, mask, **options()).frames[0, :, :, 16:] - made).max() > 1e-3


def test_a_video_stays_in_the_middle_of_what_is_made_around_it(tiny_pipe: VideoPipeline) -> None:
    given = video(10, 32, 20)
    wide = levels(tiny_pipe.uncrop(given, 32, 48, **options()).frames)
    assert wide.shape == (10, 32, 48, 3)
    assert np.array_equal(wide[:, :, 14:34], given.numpy())
    other = levels(tiny_pipe.uncrop(255 - given, 32, 48, **options()).frames)
    assert (wide[:, :, :6] != other[:, :, :6]).any()  # far from the border: what is made has seen what is there
    with pytest.raises(ValueError, match=r"frames of torch.float32 \(10, 32, 20, 3\) must be uint8"):
        tiny_pipe.uncrop(given.float(), 32, 48)
    with pytest.raises(ValueError, match="height=40 must be a multiple of 16"):
        tiny_pipe.uncrop(given, 40, 48)


def test_an_edit_heeds_a_schedule(tiny_pipe: VideoPipeline) -> None:
    given, asked = video(33), {"strength": 0.8}
    one, changed = (
        tiny_pipe.edit(given, **asked, **options(prompt=text)).frames
        for text in ("0: a ball | 2.2: a ball", "0: a ball | 2.2: two red cubes")
    )
    assert np.array_equal(one[:, :17], changed[:, :17])
    assert np.abs(one - changed)[:, 24:].max() > 1e-3
    with pytest.raises(ValueError, match=r"the prompt '.*' begins at 5 s: the video goes from 0 to 4\.125 s"):
        tiny_pipe.edit(given, prompt="0: a | 5: b")


def test_what_is_not_offered_is_refused_before_anything_is_inverted(
    tiny_pipe: VideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VideoPipeline, "_inverted", None)
    with pytest.raises(ValueError, match="output_type='latent' is not offered here"):
        tiny_pipe.interpolate(video(9), video(9), output_type="latent")


def test_all_windows_of_an_edit_are_guided_alike(tiny_pipe: VideoPipeline) -> None:
    given = video(41)
    edit = tiny_pipe.edit(given, 0.7, **options(guidance_scale=None)).frames
    by_four = tiny_pipe.edit(given, 0.7, **options(guidance_scale=4.0)).frames
    assert np.array_equal(edit, by_four)
    whole, by_four = (tiny_pipe.edit(given, 1.0, **options(guidance_scale=s)).frames for s in (None, 4.0))
    assert not np.array_equal(whole, by_four)  # that is text to video


def test_an_interpolation_streams_as_any_other(tiny_pipe: VideoPipeline) -> None:
    pair = {"video": video(13), "second": video(13, seed=4), "seconds": 0.0}
    found = list(tiny_pipe.stream(request("interpolate", **pair)))
    assert sum(piece.frames.shape[2] for piece in found) == 13
    assert not any(piece.given for piece in found)
