"""A student of a model, which samples in few steps without guidance: an adapter in the model's own folder.

tools/distill.py makes it (see `video_dit.distillation`). It is merged into the weights, so it costs nothing and asks
for no package.
"""

from collections.abc import Callable
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE

from video_dit.lora import lora_facts, merge_lora
from video_dit.pipeline import VideoPipeline

FOLDER = "few_steps"
STEPS = "steps"  # the name of the fact


def steps_fact(fewest: int, most: int) -> dict[str, str]:
    """What a student's file says of itself: for how many steps it was made."""
    return {STEPS: f"{fewest}-{most}"}


def student_steps(folder: Path) -> range:
    """How many steps the student of a model's folder may take; none where the folder has no student.

    Raises:
        ValueError: its file is damaged, or was made for other things.
    """
    file = folder / FOLDER / LORA_WEIGHT_NAME_SAFE
    if not file.is_file():
        return range(0)
    try:
        fewest, _, most = lora_facts(file).get(STEPS, "").partition("-")
    except ValueError as error:
        raise ValueError(f"{error}, or remove {folder / FOLDER}, to sample without it") from None
    if not (fewest.isdigit() and most.isdigit()):
        raise ValueError(f"{file} does not say for which steps it was made: remove it, or copy tools/distill.py's here")
    return range(int(fewest), int(most) + 1)


def is_student(path: Path) -> bool:
    """Whether the adapter in a file, or in the folder that it lies in, is a student; ValueError where there is none."""
    return STEPS in lora_facts(path)


def load_few_steps(pipe: VideoPipeline, folder: Path) -> None:
    """Turn the transformer of ``pipe`` into the student that lies in its folder, which is to be asked without guidance:
    ``pipe(prompt, num_inference_steps=4, guidance_scale=1)``. The model as it was is had by loading it again.

    Raises:
        ValueError: there is no student, or it is another model's.
    """
    try:
        merge_lora(pipe.transformer, folder / FOLDER)
    except ValueError as error:
        raise ValueError(f"{error}; or remove {folder / FOLDER}, to sample without it") from None


def use_few_steps(
    pipe: VideoPipeline, folder: Path, steps: int, guidance_scale: float | None, say: Callable[[str], None]
) -> float | None:
    """The guidance to sample with: none by the student, which ``pipe`` then holds, where the folder has one for so many
    steps, ``guidance_scale`` is left open and ``pipe`` steps as the student was taught to; else as it was. It is said
    when the student is taken.

    Raises:
        ValueError: as `student_steps` and `load_few_steps`.
    """
    taught = isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    if guidance_scale is not None or not taught or steps not in student_steps(folder):
        return guidance_scale
    load_few_steps(pipe, folder)
    say(f"{steps} steps: by the student in {folder / FOLDER}, without guidance; --guidance-scale asks the model itself")
    return 1.0
