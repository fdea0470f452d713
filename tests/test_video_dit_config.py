"""Config files over dataclasses: overrides, and one clear line for whatever is wrong."""

from dataclasses import FrozenInstanceError, dataclass, field
from pathlib import Path

import pytest

from video_dit.config import CONFIGS, DataConfig, ModelConfig, RunConfig, find_config, load_config, save_config


@dataclass(frozen=True)
class Part:
    lr: float = 1e-3
    steps: int = 10
    name: str = "a"
    sizes: list[list[int]] = field(default_factory=lambda: [[64, 64]])

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"part.steps={self.steps} must be at least 1")


@dataclass(frozen=True)
class Whole:
    seed: int = 0
    flag: bool = False
    part: Part = field(default_factory=Part)


def test_heads_that_cannot_be_shared_out_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train.sequence_parallel=3 must divide model.num_heads=4"):
        load_config(RunConfig, "sora_tiny.yaml", ["train.sequence_parallel=3", "model.num_heads=4"])


def write(folder: Path, text: str) -> str:
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


def test_file_and_overrides_win_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: 5\npart:\n  lr: 1e-4\n  sizes: [[16, 32], [32, 16]]\n")
    config = load_config(Whole, file, ["part.steps=7", "flag=true", "part.name=b"])
    assert config == Whole(5, True, Part(1e-4, 7, "b", [[16, 32], [32, 16]]))
    assert isinstance(config.part, Part)
    assert load_config(Whole, file, ["part.lr=3e-4"]).part.lr == 3e-4
    with pytest.raises(FrozenInstanceError):
        config.seed = 1


def test_nothing_behind_the_sign_is_the_empty_text(tmp_path: Path) -> None:
    file = write(tmp_path, "part:\n  name: b\n")
    assert load_config(Whole, file, ["part.name="]).part.name == ""
    assert load_config(Whole, file, ["part.name=x="]).part.name == "x="
    assert load_config(RunConfig, "sora_tiny.yaml", ["data.cache="]).data.cache == ""
    with pytest.raises(ValueError, match=r"part\.steps: Value '' of type 'str' could not be converted"):
        load_config(Whole, file, ["part.steps="])


def test_lists_are_replaced_and_not_merged(tmp_path: Path) -> None:
    config = load_config(Whole, write(tmp_path, "part:\n  sizes: [[1, 2], [3, 4]]"), ["part.sizes=[[5,6]]"])
    assert config.part.sizes == [[5, 6]]


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_config(Whole, write(tmp_path, "# nothing\n")) == Whole()


@pytest.mark.parametrize("name", ["patch_size", "hidden_size", "num_layers", "ratio", "rope_theta", "base_tokens"])
def test_a_size_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.{name}=0 must be above 0"):
        ModelConfig(**{name: 0})


def test_a_sample_prompt_that_begins_too_late_is_refused_before_training() -> None:
    DataConfig(sample_prompts=["a ball", "0: a | 3: b"], window_frames=33)
    for prompt, reason in (("0: a | 5: b", "begins at 5 s: samples last 4.125 s"), ("0: a | b", "must be 'SECONDS")):
        with pytest.raises(ValueError, match=reason):
            DataConfig(sample_prompts=["a ball", prompt], window_frames=33)


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("sed: 1", [], ["run.yaml", "sed"]),
        ("part:\n  lrr: 1", [], ["run.yaml", "part.lrr"]),
        ("seed: 1", ["part.stepz=1"], ["part.stepz"]),
        ("seed: 1", ["pert.steps=1"], ["pert"]),
        ("seed: many", [], ["seed", "many"]),
        ("seed: 1.5", [], ["seed", "1.5"]),
        ("part:\n  lr: fast", [], ["part.lr", "fast"]),
        ("part: 3", [], ["Part", "3"]),
        ("part:\n  sizes: [[a]]", [], ["sizes", "a"]),
        ("flag: 7up", [], ["flag", "7up"]),
        ("seed: null", [], ["seed"]),
        ("seed: 1", ["part.steps=0"], ["part.steps=0 must be at least 1"]),
        ("seed: 1", ["part.steps"], ["'part.steps' must be section.key=value"]),
        ("seed: 1", ["--steps", "3"], ["'--steps' must be section.key=value"]),
        ("seed: [1, 2", [], ["run.yaml"]),
        ("seed: 1", ["part.sizes=[[8, 8]"], ["part.sizes=[[8, 8]"]),
        ("seed: 1", ["part.name=${"], ["run.yaml"]),
        ("- 1\n- 2", [], ["run.yaml"]),
        ("just words", [], ["run.yaml"]),
        ("seed: ${nowhere}", [], ["run.yaml", "nowhere"]),
    ],
)
def test_mistakes_are_one_line_with_their_place(
    tmp_path: Path, text: str, overrides: list[str], words: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        load_config(Whole, write(tmp_path, text), overrides)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_bare_name_is_found_in_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("vae_tiny.yaml") == CONFIGS / "vae_tiny.yaml"
    (tmp_path / "vae_tiny.yaml").write_text("seed: 1")
    assert find_config("vae_tiny.yaml") == Path("vae_tiny.yaml")  # a file at hand comes first
    with pytest.raises(ValueError, match=r"--config none\.yaml: no such file; .*vae_tiny\.yaml") as error:
        find_config("none.yaml")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="no such file"):
        find_config(str(tmp_path))


def test_a_saved_config_is_read_back(tmp_path: Path) -> None:
    config = Whole(3, True, Part(2e-5, 4, "x: y", [[8, 8]]))
    save_config(config, tmp_path / "run" / "config.yaml")
    assert load_config(Whole, str(tmp_path / "run" / "config.yaml")) == config
