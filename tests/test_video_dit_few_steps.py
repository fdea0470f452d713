"""A student in a model's folder: when it is taken, that it is said, and which are refused."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from video_dit import VideoDiT, VideoPipeline
from video_dit.few_steps import FOLDER, load_few_steps, steps_fact, student_steps, use_few_steps
from video_dit.lora import LoRAConfig, add_lora, save_lora


@pytest.fixture
def folder(tiny_pipe: VideoPipeline, tmp_path: Path) -> Path:
    """Of a model, with a student for 4 to 8 steps."""
    tiny_pipe.save_pretrained(tmp_path / "model")
    student(tiny_pipe.transformer, tmp_path / "model", steps_fact(4, 8))
    return tmp_path / "model"


def student(transformer: VideoDiT, folder: Path, facts: dict[str, str]) -> None:
    """Write one as if it had been trained."""
    other = VideoDiT.from_config(transformer.config)
    other.load_state_dict(transformer.state_dict())
    add_lora(other, LoRAConfig(rank=2))
    for name, parameter in other.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.02)
    (folder / FOLDER).mkdir(exist_ok=True)
    save_lora(other, folder / FOLDER, "a-model", facts)


def load(folder: Path) -> VideoPipeline:
    return VideoPipeline.from_pretrained(folder)


def weights(pipe: VideoPipeline) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in pipe.transformer.parameters()])


def test_it_is_taken_for_its_steps_alone_unless_guidance_is_asked_for(folder: Path) -> None:
    plain = weights(load(folder))
    for steps, scale, wanted in ((3, None, None), (4, None, 1.0), (8, None, 1.0), (9, None, None), (4, 4.0, 4.0)):
        pipe, said = load(folder), []
        assert use_few_steps(pipe, folder, steps, scale, said.append) == wanted
        taken = (steps, scale) in ((4, None), (8, None))
        assert len(said) == taken
        assert torch.equal(weights(pipe), plain) is not taken
        if taken:
            assert said[0].startswith(f"{steps} steps: by the student in {folder / FOLDER}, without guidance")


def test_a_model_without_one_is_asked_itself(folder: Path) -> None:
    shutil.rmtree(folder / FOLDER)
    pipe, said = load(folder), []
    plain = weights(pipe)
    assert use_few_steps(pipe, folder, 4, None, said.append) is None
    assert not said and not student_steps(folder) and torch.equal(weights(pipe), plain)
    with pytest.raises(ValueError, match="no such file"):
        load_few_steps(pipe, folder)


def test_one_that_is_of_other_weights_or_damaged_is_refused(folder: Path) -> None:
    pipe = load(folder)
    pipe.transformer.proj_out.weight.data.neg_()
    with pytest.raises(ValueError, match=f"was trained on another model: .*; or remove {folder / FOLDER}, to sample"):
        use_few_steps(pipe, folder, 4, None, print)
    file = folder / FOLDER / LORA_WEIGHT_NAME_SAFE
    save_file(load_file(file), file, metadata={"steps": "few"})
    with pytest.raises(ValueError, match=f"{file} does not say for which steps it was made: remove it"):
        use_few_steps(load(folder), folder, 4, None, print)
    file.write_bytes(b"no tensors")
    for steps in (4, 30):
        with pytest.raises(ValueError, match=f"{file} is no safetensors file"):
            use_few_steps(load(folder), folder, steps, None, print)


def test_half_a_pair_of_matrices_changes_nothing(folder: Path) -> None:
    pipe, file = load(folder), folder / FOLDER / LORA_WEIGHT_NAME_SAFE
    plain, state = weights(pipe), load_file(file)
    with safe_open(file, framework="pt") as opened:
        facts = opened.metadata()
    last = max(name for name in state if ".lora_B." in name)
    for broken in (
        {name: tensor for name, tensor in state.items() if name != last},
        state | {last: state[last][:, 0].contiguous()},
        state | {last: state[last][:, :1].contiguous()},
    ):
        save_file(broken, file, metadata=facts)
        with pytest.raises(ValueError, match=r"is damaged: .* do not fit; copy it again; or remove"):
            load_few_steps(pipe, folder)
        assert torch.equal(weights(pipe), plain)
