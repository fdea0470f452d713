"""Few steps: a student, an adapter of the model, learns to take in one step what the model with guidance takes in more.

Guidance is folded in (Meng et al., 2023, arXiv:2210.03142). A student's step is a segment of the path, from one level
of a sampling schedule to the next, as of phased consistency models (Wang et al., 2024, arXiv:2405.18407), so it samples
with the scheduler of the model, in any number of steps that it was made for.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from data.seeding import draw_integer, keyed_generator
from video_dit.batch import LEVELS_MULTIPLE, Lesson, Pack
from video_dit.context import CONTEXT_LEVEL_MAX
from video_dit.lora import without_adapter
from video_dit.model import VideoDiT
from video_dit.noise import add_noise, level_shift, sampling_levels
from video_dit.sampling import SamplingConfig
from video_dit.tokens import Segments

LARGER_SHARE = 0.5
"""Of samples whose schedule is one of larger videos than they are, so that a student can make these as well."""
LARGER = 2.0
"""The most that its shift is over their own: that of four times the tokens."""


@dataclass(frozen=True)
class DistillConfig:
    """How a student is made; see tools/distill.py.

    steps: the fewest and the most that it is to sample in; empty for an ordinary training. teacher_steps: those of the
    model, guided as it is by default, for one of the student's.

    Raises:
        ValueError: a value is out of its range.
    """

    steps: list[int] = field(default_factory=list)
    teacher_steps: int = 4

    def __post_init__(self) -> None:
        if self.steps and not (len(self.steps) == 2 and 1 <= self.steps[0] <= self.steps[1]):
            raise ValueError(f"distill.steps={list(self.steps)} must be the fewest and the most, such as [4, 8]")
        if self.teacher_steps < 1:
            raise ValueError(f"distill.teacher_steps={self.teacher_steps} must be at least 1")


def on_schedule(pack: Pack, config: DistillConfig, base_tokens: int, key: tuple[int, int]) -> Pack:
    """A pack of the straight path whose made tokens are at a level of a sampling schedule instead, and what a student
    is to learn there. Known tokens are as little noisy as in sampling.

    Args:
        base_tokens: see `level_shift`. key: seed and position of the pack.
    """
    before = pack.levels[pack.level_index]  # n
    clean = pack.hidden_states - before[:, None] * pack.target
    near = torch.where(before > CONTEXT_LEVEL_MAX, before * CONTEXT_LEVEL_MAX, before)
    levels: list[Tensor] = []
    ends: list[Tensor] = []
    guidance: list[Tensor] = []
    index: list[Tensor] = []
    fewest, most = config.steps
    lengths = pack.segments.lengths
    for clip, known_level, made in zip(pack.clips, near.split(lengths), pack.made.split(lengths), strict=True):
        generator = keyed_generator(*key, clip, "schedule")
        steps = fewest + draw_integer(most - fewest + 1, generator)
        shift = level_shift(len(made), base_tokens)
        if float(torch.rand((), generator=generator)) < LARGER_SHARE:
            shift *= 1 + (LARGER - 1) * float(torch.rand((), generator=generator))
        schedule = torch.nn.functional.pad(sampling_levels(steps, shift), (0, 1))
        number = draw_integer(steps, generator)
        start, end = schedule[number], schedule[number + 1]
        distinct, inverse = torch.where(made, start, known_level).unique(return_inverse=True)
        index.append(inverse + sum(len(one) for one in levels))
        levels.append(distinct)
        ends.append(torch.where(distinct == start, end, distinct))
        scale = SamplingConfig().guidance(anything_known=not bool(made.all()))
        guidance.append(torch.full_like(distinct, scale))
    tables = [torch.cat(table) for table in (levels, ends, guidance)]
    tables = [torch.nn.functional.pad(table, (0, -len(table) % LEVELS_MULTIPLE)) for table in tables]
    level_index = torch.cat(index)
    return replace(
        pack,
        hidden_states=add_noise(clean, clean + pack.target, tables[0][level_index][:, None]),
        levels=tables[0],
        level_index=level_index,
        lesson=Lesson(tables[1], tables[2], config.teacher_steps),
    )


@torch.no_grad()
def taught(transformer: VideoDiT, pack: Pack, prompt_embeds: Tensor, null_embeds: Tensor) -> Pack:
    """A pack of `on_schedule` with the velocity that leads in one step where the model, without its adapter and guided,
    comes in ``teacher_steps`` of Euler, as its target.

    Args:
        prompt_embeds: of the pack's prompts, ``(m, d_text)``. null_embeds: of the empty prompt, ``(m', d_text)``.
    """
    lesson = pack.lesson
    assert lesson is not None
    samples = pack.prompts.segments.count
    null_segments = Segments.from_lengths([len(null_embeds)] * samples, null_embeds.device)
    steps, x = lesson.teacher_steps, pack.hidden_states
    scale = lesson.guidance[pack.level_index][:, None]  # n 1
    with without_adapter(transformer):
        texts = [
            (transformer.text_keys_values(prompt_embeds), pack.prompts.segments),
            (transformer.text_keys_values(null_embeds.repeat(samples, 1)), null_segments),
        ]
        for number in range(steps):
            level, next_level = (torch.lerp(pack.levels, lesson.ends, n / steps) for n in (number, number + 1))
            guided, null = (
                transformer(
                    x, level, pack.level_index, pack.coords, pack.one_frame, pack.segments, text, segments
                ).float()
                for text, segments in texts
            )
            x = x + (next_level - level)[pack.level_index][:, None] * torch.lerp(null, guided, scale)
    length = (lesson.ends - pack.levels)[pack.level_index]  # n, 0 where nothing is made
    velocity = (x - pack.hidden_states) / torch.where(pack.made, length, 1.0)[:, None]
    return replace(pack, target=velocity)
