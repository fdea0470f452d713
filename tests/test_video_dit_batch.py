"""Training packs: noised views of encoded clips, and what loss is taken of."""

from dataclasses import replace

import pytest
import torch
from packed import slices
from torch import Tensor

from data import dataset
from data.packing import View
from data.transforms import to_float
from vae3d import LatentCodec, VideoVAE
from video_dit.batch import LEVELS_MULTIPLE, Lesson, Pack, build_pack, encode_clip
from video_dit.context import CONTEXT_LEVEL_MAX, ContextConfig
from video_dit.noise import NoiseConfig, add_noise, loss_weight, path_alphas_cumprod, to_epsilon, to_sample
from video_dit.text import TextConfig, byte_t5
from video_dit.tokens import patchify

R, PATCH, RATE = 4, 2, 8.0
NO_COLD = ContextConfig(cold_suffix=0.0)
STRAIGHT = NoiseConfig()
TOKENIZER, _ = byte_t5(TextConfig(max_length=24, width=16, num_layers=1, num_heads=2, hidden=32))
Clip = tuple[View, dict[str, Tensor], str]


def clip(index: int, start: int, length: int, keyframe: bool = False, size: tuple[int, int] = (4, 4)) -> Clip:
    """A view of a clip of 8 latent frames of random values; the cold ones are 100, the first of them -100."""
    h, w = size
    g = torch.Generator().manual_seed(index)
    cold = torch.full((4, 8 - 2, h, w), 100.0)
    cold[:, 0] = -100
    encoded = {
        "latents": torch.randn(4, 8, h, w, generator=g).bfloat16(),
        "keyframe": torch.randn(4, 1, h, w, generator=g).bfloat16(),
        "keyframe_frame": torch.tensor(11),
        "cold": cold.bfloat16(),
        "cold_start": torch.tensor(2),
        "frame_rate": torch.tensor(RATE),
    }
    view = View(index, 0, start, length, keyframe, (length + keyframe) * h * w // PATCH**2)
    return view, encoded, f"clip {index}"


MIXED = [
    clip(0, 0, 5),
    clip(1, 3, 4, keyframe=True, size=(2, 6)),
    clip(2, 0, 1, size=(4, 2)),
    clip(3, 0, 8, keyframe=True, size=(6, 4)),
    clip(4, 7, 1),
]


def build(
    clips: list[Clip],
    position: int = 0,
    seed: int = 0,
    context: ContextConfig = NO_COLD,
    noise: NoiseConfig = STRAIGHT,
) -> Pack:
    return build_pack(clips, position, seed, R, PATCH, 4, context, noise, TOKENIZER)


def split(pack: Pack, values: Tensor) -> list[Tensor]:
    """Values of tokens by sample."""
    return [values[part] for part in slices(pack.segments)]


def prompts(pack: Pack) -> list[str]:
    """Those that are still to be encoded, in order of their places in the pack."""
    rows = torch.cat([ids.flatten() for ids in pack.prompts.ids])
    texts = [TOKENIZER.decode(rows[pack.prompts.places[part]]) for part in slices(pack.prompts.segments)]
    return [str(text).removesuffix("</s>") for text in texts]


def levels(pack: Pack) -> Tensor:
    return pack.levels[pack.level_index]


def clean(pack: Pack) -> Tensor:
    """The latents' tokens, worked out from the noisy ones and the target."""
    return pack.hidden_states - levels(pack)[:, None] * pack.target


def same(a: Pack, b: Pack) -> bool:
    names = ("hidden_states", "target", "levels", "level_index", "coords", "one_frame", "made", "weight")
    equal = all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)
    return equal and prompts(a) == prompts(b) and a.clips == b.clips


def test_a_pack_is_a_function_of_seed_and_position() -> None:
    pack = build(MIXED, 3, seed=7)
    torch.manual_seed(99)
    assert same(build(MIXED, 3, seed=7), pack)
    for other in (build(MIXED, 4, seed=7), build(MIXED, 3, seed=8)):
        assert not same(other, pack)
        assert not torch.equal(other.target, pack.target)


def test_a_sample_does_not_depend_on_its_neighbours() -> None:
    alone = build(MIXED[1:2], 3)
    within = build(MIXED, 3)
    assert torch.equal(split(within, within.hidden_states)[1], alone.hidden_states)
    assert torch.equal(split(within, levels(within))[1], levels(alone))


def test_shapes() -> None:
    pack = build(MIXED)
    lengths = [view.tokens for view, _, _ in MIXED]
    assert pack.segments.cu_seqlens.diff().tolist() == lengths
    n = sum(lengths)
    assert pack.hidden_states.shape == pack.target.shape == (n, 16)
    assert pack.coords.shape == (n, 3)
    assert pack.level_index.shape == pack.one_frame.shape == pack.made.shape == pack.weight.shape == (n,)
    assert len(pack.levels) % LEVELS_MULTIPLE == 0
    assert pack.level_index.max() < len(pack.levels)
    assert pack.hidden_states.dtype == pack.levels.dtype == pack.coords.dtype == torch.float32
    assert pack.clips == (0, 1, 2, 3, 4)
    assert pack.loss_elements == int(pack.made.sum()) * 16
    moved = pack.to("meta")
    assert moved.target.device.type == moved.weight.device.type == moved.segments.cu_seqlens.device.type == "meta"


def test_latents_and_noise_are_recovered() -> None:
    pack = build(MIXED)
    for (view, encoded, _), tokens in zip(MIXED, split(pack, clean(pack)), strict=True):
        latents = encoded["latents"][:, view.start : view.start + view.length]
        if view.keyframe:
            latents = torch.cat([latents, encoded["keyframe"]], dim=1)
        assert torch.allclose(tokens, patchify(latents[None].float(), PATCH)[0], atol=1e-5)
    noise = clean(pack) + pack.target
    assert abs(float(noise.mean())) < 0.1
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_path_of_ddpm_is_noised_predicted_and_weighted_token_by_token(schedule: str, prediction: str) -> None:
    """Known tokens too, whose levels lie between timesteps."""
    noise = NoiseConfig(path="vp", schedule=schedule, prediction=prediction, weighting="min_snr")
    straight, pack = build(MIXED), build(MIXED, noise=noise)
    path, level = path_alphas_cumprod(noise), levels(pack)[:, None]
    off_grid = (level * 1000 - (level * 1000).round()).abs() > 1e-3
    assert (off_grid & ~pack.made[:, None]).any()
    assert not (off_grid & pack.made[:, None]).any()
    latents, drawn = clean(straight), clean(straight) + straight.target
    assert torch.allclose(pack.hidden_states, add_noise(latents, drawn, level, path), atol=1e-5)
    safe = (level[:, 0] > 0.02) & (level[:, 0] < 0.98)
    tokens = prediction, pack.target[safe], pack.hidden_states[safe], level[safe], path
    assert torch.allclose(to_sample(*tokens), latents[safe], atol=1e-3)
    assert torch.allclose(to_epsilon(*tokens), drawn[safe], atol=1e-3)
    assert torch.equal(pack.weight, loss_weight(noise, levels(pack), path))
    assert len(pack.weight.unique()) > 3
    assert torch.equal(straight.weight, torch.ones(len(straight.made)))


def test_loss_is_taken_on_made_tokens_only() -> None:
    """A known side is less noisy than the made one, nearly clean, or pure noise; each side has one level."""
    known_sides = 0
    for position in range(40):
        pack = build(MIXED[:1], position)
        made, known = levels(pack)[pack.made], levels(pack)[~pack.made]
        assert pack.made.any()
        if len(known):
            known_sides += 1
            assert len(known.unique()) == len(made.unique()) == 1
            assert known[0] <= made[0] or known[0] <= CONTEXT_LEVEL_MAX or known[0] == 1
    assert 8 <= known_sides <= 28


def test_one_frame_latents_are_clip_starts_and_keyframes() -> None:
    pack = build(MIXED)
    for (view, encoded, _), one_frame, made, level in zip(
        MIXED, split(pack, pack.one_frame), split(pack, pack.made), split(pack, levels(pack)), strict=True
    ):
        frame = encoded["latents"][0, 0].numel() // PATCH**2
        own = one_frame[: view.length * frame]
        assert own[:frame].all() == (view.start == 0)
        assert not own[frame:].any()
        if view.keyframe:
            assert one_frame[-frame:].all()
            assert not made[-frame:].any()
            assert level[-frame:].max() <= CONTEXT_LEVEL_MAX


def test_times_count_from_the_first_frame_of_the_view() -> None:
    pack = build(MIXED)
    times = [part[:, 0].unique() for part in split(pack, pack.coords)]
    assert torch.allclose(times[0], torch.tensor([0, 2.5, 6.5, 10.5, 14.5]) / RATE)
    # in mid-clip: the view begins with frame 1 + 2r = 9, so the keyframe, frame 11, stands 2 frames in
    assert torch.allclose(times[1], torch.tensor([1.5, 2, 5.5, 9.5, 13.5]) / RATE)
    assert split(pack, pack.coords)[1][-1, 0] == 2 / RATE
    assert times[2].tolist() == [0]
    assert split(pack, pack.coords)[3][-1, 0] == 11 / RATE
    assert torch.allclose(times[4], torch.tensor([1.5]) / RATE)


def test_text_is_dropped_as_often_as_configured() -> None:
    clips = [clip(n, 0, 1, size=(2, 2)) for n in range(25)]
    told = [prompt for position in range(40) for prompt in prompts(build(clips, position))]
    assert told.count("") / len(told) == pytest.approx(0.1, abs=0.03)
    assert all(prompt in ("", f"clip {n % 25}") for n, prompt in enumerate(told))
    never = build(clips, context=replace(NO_COLD, text_dropout=0.0))
    assert prompts(never) == [f"clip {n}" for n in range(25)]


def test_cold_latents_stand_in_known_suffixes_only() -> None:
    """By `clip`, cold latents are 100 and begin at latent frame 2; the one-frame one among them is -100."""
    context = ContextConfig(two_levels=1.0, per_frame=0.0, null_context=0.0, cold_suffix=1.0)
    view, encoded, text = clip(0, 1, 6, keyframe=True)
    replaced: set[int] = set()
    for position in range(150):
        pack = build([(view, encoded, text)], position, context=context)
        is_cold = ((clean(pack) - 100).abs() < 1).all(dim=1).view(7, 4)
        assert clean(pack).min() > -50
        made = pack.made.view(7, 4)
        whole = is_cold.all(dim=1)
        assert torch.equal(whole, is_cold.any(dim=1))
        assert not whole[-1]  # the keyframe
        if count := int(whole.sum()):
            replaced.add(count)
            assert whole[6 - count : 6].all()
            assert not made[6 - count : 6].any()
            assert made[: 6 - count].all()
    assert replaced == {4}  # latent frames 3 to 6 of the clip, all that follow the cold start
    never = [build([(view, encoded, text)], p, context=replace(context, cold_suffix=0.0)) for p in range(30)]
    assert max(float(clean(pack).max()) for pack in never) < 50


def moving_clip(frames: int = 33) -> dataset.Clip:
    """A coarse random pattern that turns into another every few frames, and drifts."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, frames // 4 + 2, 8, 8, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (frames, 32, 32), mode="trilinear")[0]
    return dataset.Clip((smooth.permute(1, 2, 3, 0) * 255).byte(), RATE)


def test_encoded_clip(tiny_vae: VideoVAE) -> None:
    codec, moving = LatentCodec(tiny_vae), moving_clip()
    starts, keyframes = set(), set()
    for seed in range(12):
        encoded = encode_clip(codec, moving, torch.Generator().manual_seed(seed))
        latents, cold, start = encoded["latents"].float(), encoded["cold"].float(), int(encoded["cold_start"])
        assert latents.shape == (4, 9, 4, 4)
        assert encoded["latents"].dtype == torch.bfloat16
        assert encoded["frame_rate"] == RATE
        assert cold.shape == (4, 9 - start, 4, 4)
        for j in range(1, cold.shape[1]):
            distance = (latents - cold[:, j, None]).abs().mean(dim=(0, 2, 3))  # to each latent frame
            assert int(distance.argmin()) == start + j
            assert start == 0 or j > 1 or distance.min() > 0.005  # close, not equal: it knows no frame before
        frame = int(encoded["keyframe_frame"])
        alone = codec.encode(to_float(moving.frames[frame : frame + 1])[None])[0]
        assert torch.equal(encoded["keyframe"], alone.bfloat16())
        starts.add(start)
        keyframes.add(frame)
    assert len(starts) > 3
    assert max(starts) <= 7  # at least one cold latent beside the one-frame latent
    assert len(keyframes) > 3
    again = encode_clip(codec, moving, torch.Generator().manual_seed(11))
    assert all(torch.equal(again[name], encoded[name]) for name in encoded)


def test_an_image_is_encoded_too(tiny_vae: VideoVAE) -> None:
    encoded = encode_clip(LatentCodec(tiny_vae), moving_clip(1), torch.Generator().manual_seed(0))
    assert encoded["latents"].shape == encoded["cold"].shape == encoded["keyframe"].shape == (4, 1, 4, 4)
    pack = build([(View(0, 0, 0, 1, True, 8), encoded, "")])
    assert len(pack.hidden_states) == 8


def test_stored_embeddings_go_with_the_caption_of_the_epoch() -> None:
    """And not with one that is dropped."""
    view, encoded, text = clip(0, 0, 5)
    told = {f"prompt_embeds.{number}": torch.full((3, 2), float(number)) for number in range(3)}
    many = [(replace(view, index=index, epoch=index), {**encoded, **told}, text) for index in range(40)]
    pack = build(many, context=replace(NO_COLD, text_dropout=0.5))
    dropped = len(pack.prompts.encoded)
    assert 0 < dropped < 40
    assert pack.prompts.segments.lengths.count(1) == dropped  # the end token of an empty prompt
    given = pack.prompts.stored
    assert given is not None
    numbers = [int(rows[0, 0]) for rows in given.split(3)]
    kept = [index for index, length in enumerate(pack.prompts.segments.lengths) if length == 3]
    assert numbers == [index % 3 for index in kept]
    assert len(kept) == 40 - dropped
    assert build(MIXED).prompts.stored is None


def test_all_tensors_of_a_pack_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not would be copied while the host waits; of segments, which are few numbers, the bounds stay there."""
    pinned: list[int] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.data_ptr())
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    stored = [(view, {**encoded, "prompt_embeds.0": torch.zeros(2, 16)}, text) for view, encoded, text in MIXED[:3]]
    pack = build([*stored, *MIXED[3:]], context=replace(NO_COLD, text_dropout=0.0))
    pack = replace(pack, lesson=Lesson(torch.zeros(3), torch.ones(3), 4))
    copy = pack.pin_memory()
    prompts, lesson = pack.prompts, pack.lesson
    assert lesson is not None
    assert prompts.stored is not None
    tensors = [value for value in vars(pack).values() if isinstance(value, Tensor)]
    tensors += [*prompts.ids, *prompts.masks, prompts.places, prompts.stored, lesson.ends, lesson.guidance]
    assert sorted(pinned) == sorted(tensor.data_ptr() for tensor in tensors)
    for name, value in vars(pack).items():
        if isinstance(value, Tensor):
            assert torch.equal(getattr(copy, name), value)
    assert (copy.clips, copy.segments, copy.prompts.encoded) == (pack.clips, pack.segments, prompts.encoded)
    assert copy.lesson is not None
    assert copy.lesson.teacher_steps == 4
