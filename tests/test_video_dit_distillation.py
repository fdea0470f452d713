"""A student's lessons: levels of a sampling schedule, targets that are the model's own sampling, and that it learns."""

import math

import pytest
import tiny_denoiser
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_engine import STAGES
from torch import Tensor

from video_dit import VideoDiT
from video_dit.batch import Pack
from video_dit.config import RunConfig
from video_dit.context import CONTEXT_LEVEL_MAX
from video_dit.denoiser import Denoiser
from video_dit.distillation import LARGER, DistillConfig, on_schedule, taught
from video_dit.engine import TrainConfig, initialize
from video_dit.lora import LoRAConfig, add_lora
from video_dit.noise import NoiseConfig, add_noise, level_shift, shift_level
from video_dit.sampling import Prompts, SamplingConfig, Window, sample_window
from video_dit.text import encode_prompts, tokenize
from video_dit.tokens import Segments, grid_coords, latent_times, patchify, per_token

BASE = 4  # tokens at which the shift is 1
DISTILL = DistillConfig([2, 5], teacher_steps=3)


def lesson(position: int, config: DistillConfig = DISTILL) -> Pack:
    return on_schedule(tiny_denoiser.pack(position), config, BASE, (0, position))


def samples(pack: Pack, values: Tensor) -> tuple[Tensor, ...]:
    return values.split(pack.segments.lengths)


def test_made_tokens_are_at_a_level_of_a_schedule_and_lead_to_its_next() -> None:
    steps_seen: set[int] = set()
    at_own = 0
    for position in range(12):
        pack = lesson(position)
        assert pack.lesson is not None
        assert len(pack.levels) % 32 == 0 and pack.levels.shape == pack.lesson.ends.shape == pack.lesson.guidance.shape
        tables = (pack.levels, pack.lesson.ends, pack.lesson.guidance)
        per_sample = (samples(pack, table[pack.level_index]) for table in tables)
        for made, level, end, scale in zip(samples(pack, pack.made), *per_sample, strict=True):
            (start,), (stop,) = level[made].unique(), end[made].unique()
            found = schedules(float(start), float(stop))
            own = level_shift(len(made), BASE)
            fitting = {steps for steps, shift in found if own * 0.999 < shift < LARGER * own * 1.001}
            assert fitting
            steps_seen |= fitting
            at_own += any(shift == pytest.approx(own, rel=1e-4) for _, shift in found)
            assert scale.unique().tolist() == [4.0 if made.all() else 1.5]
            assert torch.equal(level[~made], end[~made]) and (level[~made] <= CONTEXT_LEVEL_MAX).all()
    assert steps_seen == {2, 3, 4, 5}
    assert 12 < at_own < 30  # of 36


def schedules(start: float, stop: float) -> list[tuple[int, float]]:
    """Steps and shift of all schedules that lead from one level to the other."""
    found = []
    for steps in range(2, 6):
        for number in range(steps):
            before, after = 1 - number / steps, 1 - (number + 1) / steps
            if number:  # start = shift · before / (1 + (shift − 1) · before)
                shift = start * (1 - before) / (before * (1 - start)) if start < 1 else math.inf
            else:
                shift = stop * (1 - after) / (after * (1 - stop))
            if shift < math.inf:
                levels = [float(shift_level(torch.tensor(u), shift)) for u in (before, after)]
                found += [(steps, shift)] if levels == pytest.approx([start, stop], abs=1e-4) else []
    return found


def test_latents_and_noise_stay_and_the_levels_depend_on_the_key_alone() -> None:
    for position in range(4):
        before, pack = tiny_denoiser.pack(position), lesson(position)
        level = before.levels[before.level_index][:, None]
        clean = before.hidden_states - level * before.target
        noisy = add_noise(clean, clean + before.target, pack.levels[pack.level_index][:, None])
        assert torch.equal(pack.hidden_states, noisy)
        assert torch.equal(pack.hidden_states, lesson(position).hidden_states)
    assert not torch.equal(lesson(0).levels, on_schedule(tiny_denoiser.pack(0), DISTILL, BASE, (1, 0)).levels)


@torch.no_grad()
@pytest.mark.parametrize("known", [0, 2])
@pytest.mark.parametrize("steps", [1, 4])
def test_its_target_is_where_sampling_with_guidance_ends(steps: int, known: int) -> None:
    """One step from pure noise to the end, learnt from ``steps`` of the model."""
    module = tiny_denoiser.denoiser()
    add_lora(module.transformer, LoRAConfig(rank=2))
    for name, parameter in module.transformer.named_parameters():
        if ".lora_" in name:  # of a student that has learnt something: the teacher is the model without it
            parameter.normal_()
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(2, 4, 3, 4, 4, generator=generator) for _ in range(2))
    is_known = torch.arange(3) < known
    times, one_frame = latent_times(3, 8.0, 4, True), torch.arange(3) == 0
    tokens, noise_tokens = (patchify(one, 2).flatten(0, 1) for one in (latents, noise))
    made = per_token(~is_known, 4, 4, 2).repeat(2)
    texts = ["a ball", "a long text"]
    level_index = made.long()
    pack = Pack(
        hidden_states=torch.where(made[:, None], noise_tokens, tokens),
        target=noise_tokens - tokens,
        levels=torch.tensor([0.0, 1.0]),
        level_index=level_index,
        coords=grid_coords(times, 4, 4, 2).repeat(2, 1),
        one_frame=per_token(one_frame, 4, 4, 2).repeat(2),
        made=made,
        weight=torch.ones(len(made)),
        segments=Segments.from_lengths([12, 12]),
        prompts=tokenize(module.tokenizer, texts),
        clips=(0, 1),
        loss_elements=int(made.sum()) * 16,
    )
    pack = on_schedule(pack, DistillConfig([1, 1], teacher_steps=steps), 10**6, (0, 0))
    encoded = [encode_prompts(module.tokenizer, module.text_encoder, some) for some in (texts, [""], ["", ""])]
    found = taught(module.transformer, pack, encoded[0][0], encoded[1][0])
    reached = pack.hidden_states - found.target * pack.levels[pack.level_index][:, None]

    plain = VideoDiT.from_config({**module.transformer.config, "base_tokens": 10**6})
    state = module.transformer.state_dict().items()
    plain.load_state_dict({name.replace(".base_layer.", "."): t for name, t in state if ".lora_" not in name})
    sampled = sample_window(
        plain,
        FlowMatchEulerDiscreteScheduler(),
        Window(latents, is_known, times, one_frame),
        Prompts(*encoded[0], *encoded[2]),
        SamplingConfig(steps, context_level=0.0),
        noise=noise[:, :, known:],
    )
    wanted = patchify(sampled, 2).flatten(0, 1)
    assert torch.allclose(reached, torch.where(made[:, None], wanted, tokens), atol=1e-4)
    assert not torch.allclose(wanted[made], noise_tokens[made], atol=0.1)


def test_a_tiny_run_lowers_the_error_of_a_step_on_what_it_has_not_seen() -> None:
    module = student()
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-3)
    unseen = [lesson(position) for position in range(100, 104)]

    @torch.no_grad()
    def error() -> float:
        return sum(float(module(pack).sum()) for pack in unseen)

    before = error()
    for position in range(60):
        optimizer.zero_grad()
        pack = lesson(position)
        (module(pack).sum() / pack.loss_elements).backward()
        optimizer.step()
    assert error() < 0.7 * before


def student() -> Denoiser:
    module = tiny_denoiser.denoiser()
    with torch.no_grad():  # so that the text counts, and with it guidance
        for block in module.transformer.blocks:
            block.cross_attn.to_out.weight.mul_(20)  # type: ignore[union-attr, operator]
    module.text_encoder.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        add_lora(module.transformer, LoRAConfig(rank=4))
    return module


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_zero_trains_it_alike(one_rank: None, stage: int) -> None:
    """Though the teacher is the same module, with its adapter left out."""
    del one_rank
    config = TrainConfig(zero_stage=stage, lr=1e-2, warmup_steps=1)
    module, plain = student(), student()
    engine = initialize(module, config, torch.float32)
    losses = tiny_denoiser.steps(engine, config, 0, 3, make=lesson)
    optimizer = torch.optim.AdamW(
        [p for p in plain.parameters() if p.requires_grad], lr=1e-2, betas=(0.9, 0.99), weight_decay=0.01
    )
    for step, loss in enumerate(losses):
        pack = lesson(step)
        optimizer.zero_grad()
        wanted = plain(pack).sum() / pack.loss_elements
        wanted.backward()
        torch.nn.utils.clip_grad_norm_([p for p in plain.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        assert loss == pytest.approx(wanted.item(), rel=1e-3)
    assert losses[0] != losses[2]


@pytest.mark.parametrize("steps", [[4], [8, 4], [0, 4], [4, 5, 6]])
def test_settings_that_make_no_sense_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match=r"distill.steps=\[.*\] must be the fewest and the most, such as \[4, 8\]"):
        DistillConfig(steps)


def test_what_cannot_have_a_student_is_refused() -> None:
    with pytest.raises(ValueError, match=r"distill.teacher_steps=0 must be at least 1"):
        DistillConfig([4, 8], 0)
    with pytest.raises(ValueError, match=r"distill.steps needs an adapter to train: set train.lora.rank, such as 12"):
        RunConfig(distill=DISTILL)
    adapter = TrainConfig(init_from="a-model", lora=LoRAConfig(rank=2))
    RunConfig(distill=DISTILL, train=adapter)
    vp = NoiseConfig(path="vp", prediction="epsilon")
    with pytest.raises(ValueError, match=r"distill.steps does not go with noise.path=vp: only with straight"):
        RunConfig(distill=DISTILL, train=adapter, noise=vp)
    RunConfig(noise=vp)
