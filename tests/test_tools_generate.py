"""tools/generate.py: what --out asks for is what is written, and what cannot be is refused before a model is loaded."""

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from written import names, read

from data.video import write_video
from data.video_write import SUFFIXES
from video_dit import VideoPipeline
from video_dit.lora import LoRAConfig, add_lora, save_lora
from video_dit.noise import NoiseConfig
from video_dit.schedulers import model_scheduler

FRAMES = 9
LUMA = np.array([0.2126, 0.7152, 0.0722])  # brightness by BT.709
CODECS = {".mp4": "h264", ".webm": "vp9", ".gif": "gif", ".webp": "webp"}
Generate = Callable[..., int]


def kind(path: Path) -> str:
    if path.suffix == ".webp":
        with Image.open(path) as image:
            return str(image.format).lower()
    with av.open(path) as container:
        return container.streams.video[0].codec_context.codec.canonical_name


def test_the_suffix_says_what_is_written_and_a_new_folder_holds_pictures(generate: Generate) -> None:
    made = {}
    for out in (*(f"a{suffix}" for suffix in SUFFIXES), "deep/b.WEBM", "pictures/", "deep/v1.5"):
        video = Path(out).suffix.lower() in SUFFIXES
        assert generate("--prompt", "x", "--seconds", "1", "--out", out, *([] if video else ["--pictures"])) == 0
        made[out] = read(Path(out))
        assert Path(out).with_suffix(".png").is_file() if video else Path(f"{out.rstrip('/')}.png").is_file()
        if video:
            assert kind(Path(out)) == CODECS[Path(out).suffix.lower()]
    pictures = made["pictures/"]
    assert pictures.shape == (FRAMES, 32, 32, 3)
    assert sorted(path.name for path in Path("pictures").iterdir())[-1] == f"{FRAMES - 1:06d}.png"
    assert np.array_equal(made["deep/v1.5"], pictures)
    for out, frames in made.items():  # noise, of which encoders keep the brightness above all
        assert frames.shape == pictures.shape, out
        for frame, picture in zip(frames, pictures, strict=True):
            assert np.corrcoef((frame @ LUMA).flat, (picture @ LUMA).flat)[0, 1] > 0.9, out


@pytest.mark.parametrize("out", ["b.webm", "b.gif", "b.webp", "b.mp4", "b"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_file_is_continued_into_each_kind(generate: Generate, out: str, direction: str) -> None:
    grey = torch.arange(9, dtype=torch.uint8) * 20 + 10
    write_video("a.mp4", grey[:, None, None, None].expand(9, 32, 32, 3), 8.0)
    pictures = [] if "." in out else ["--pictures"]
    assert generate("--video", "a.mp4", "--extend", direction, "--seconds", "1", "--out", out, *pictures) == 0
    frames = read(Path(out)).astype(int)
    assert frames.shape == (17, 32, 32, 3)
    given = frames[:9] if direction == "forward" else frames[8:]
    assert np.abs(given - read(Path("a.mp4"))).mean() < 12
    assert Path("b.png").is_file()


@pytest.mark.parametrize("out", ["a.webm", "v1.5.gif", "pictures"])
def test_of_several_videos_each_has_its_seed_in_its_name(generate: Generate, out: str) -> None:
    pictures = [] if "." in out else ["--pictures"]
    assert generate("--seconds", "1", "--num-videos", "2", "--seed", "3", "--out", out, *pictures) == 0
    paths = [Path(out).with_stem(f"{Path(out).stem}-{seed}") for seed in (3, 4)]
    videos = [read(path) for path in paths]
    assert all(path.with_suffix(".png").is_file() for path in paths)
    assert not np.array_equal(*videos)
    assert not Path(out).exists()


def test_a_folder_takes_videos_named_after_the_prompt(generate: Generate) -> None:
    Path("v1.5").mkdir()
    for folder in ("v1.5", "new"):
        assert generate("--prompt", "A ball", "--seconds", "1", "--num-videos", "2", "--out", f"{folder}/") == 0
    assert names() == [
        f"{folder}/a-ball-{seed}.{suffix}" for folder in ("new", "v1.5") for seed in (0, 1) for suffix in ("mp4", "png")
    ]


def test_pictures_in_a_folder_that_is_there_have_one_of_their_own(generate: Generate) -> None:
    Path("here").mkdir()
    assert generate("--prompt", "A ball", "--seconds", "1", "--out", "here", "--pictures") == 0
    assert names() == ["here/a-ball-0.png", *(f"here/a-ball-0/{number:06d}.png" for number in range(FRAMES))]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_a_scheduler_of_the_models_path_is_chosen_by_name(
    generate: Generate,
    tiny_pipe: VideoPipeline,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def make(name: str) -> bytes:
        if Path("a").exists():
            shutil.rmtree("a")
        arguments = ["--prompt", "x", "--seconds", "0.1", "--steps", "3", "--scheduler", name, "--pictures"]
        assert generate(*arguments, "--out", "a") == 0
        return b"".join(path.read_bytes() for path in sorted(Path("a").iterdir()))

    assert make("euler") == make("euler")
    assert generate("--scheduler", "ddim", "--out", "b.gif") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "scheduler=ddim does not go with a model of the straight path: use euler, heun" in error
    assert "ddpm" not in error
    noise = NoiseConfig(path="vp", schedule="cosine", prediction="v_prediction")
    shutil.rmtree(tmp_path / "model")
    VideoPipeline(**(tiny_pipe.components | {"scheduler": model_scheduler(noise)})).save_pretrained(tmp_path / "model")
    of_vp = ("ddpm", "ddim", "pndm", "euler-ancestral", "dpm++", "unipc")
    made = [make(name) for name in of_vp]
    assert made[0] == make(of_vp[0])
    assert len(set(made)) > 3
    assert generate("--scheduler", "euler", "--out", "b.gif") == 2
    error = capsys.readouterr().err
    assert "scheduler=euler does not go with a model of the variance-preserving path: use ddpm" in error
    assert all(name in error for name in of_vp)
    assert not Path("b.gif").exists()


def test_unknown_suffixes_are_refused_at_once(refuse: Callable[..., str]) -> None:
    for out in ("a.avi", "a.png", "a.mp4.part", "a.jpg/"):
        reason = refuse("--prompt", "x", "--out", out)
        assert f"--out {out.rstrip('/')}: must end in .mp4 or .webm or .gif or .webp" in reason


def test_pictures_go_into_new_folders_alone(generate: Generate, refuse: Callable[..., str]) -> None:
    assert "--pictures go into a folder" in refuse("--out", "pictures.mp4", "--pictures")
    Path("other-1").mkdir()
    assert "--out other-1 exists" in refuse("--out", "other", "--num-videos", "2", "--pictures")
    Path("file").write_text("")
    assert "is no folder that can be written to" in refuse("--out", "file", "--pictures")
    assert "is no folder that can be written to" in refuse("--out", "file/a.webm")


def test_a_gif_has_no_more_than_50_frames_a_second(
    generate: Generate, refuse: Callable[..., str], tmp_path: Path
) -> None:
    for arguments in (["--out", "a.gif"], ["--out", "a.GIF", "--num-videos", "2"]):
        assert "no gif is shown at 60 frames a second: use" in refuse("--frame-rate", "60", *arguments)
    for arguments in (["--frame-rate", "50", "--out", "a.gif"], ["--frame-rate", "60", "--out", "a.webp"]):
        assert generate("--seconds", "0.1", *arguments) == 0


def test_the_rate_of_the_model_may_be_too_high_for_a_gif(
    generate: Generate, tiny_pipe: VideoPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipe.transformer.register_to_config(frame_rate=60.0)
    tiny_pipe.save_pretrained(tmp_path / "model")
    assert generate("--prompt", "x", "--out", "a.gif") == 2
    assert "no gif is shown at 60 frames a second" in capsys.readouterr().err.splitlines()[-1]
    assert names() == []


def test_what_is_wrong_with_a_later_prompt_is_told_before_any_video_is_made(
    generate: Generate, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prompts.txt").write_text("a ball\n0: a | 50: b\n")
    assert generate("--prompt-file", "prompts.txt", "--seconds", "1", "--out", "made") == 2
    assert "the prompt 'b' begins at 50 s" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("made").exists()


def test_too_little_memory_is_one_line(
    generate: Generate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(VideoPipeline, "stream", full)
    assert generate("--prompt", "x", "--out", "a.mp4") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "generate.py: out of memory (CUDA out of memory): use a smaller --size"


def test_a_video_of_one_frame_is_repeated(generate: Generate, tiny_pipe: VideoPipeline, tmp_path: Path) -> None:
    tiny_pipe.transformer.register_to_config(sample_latent_frames=1)
    tiny_pipe.save_pretrained(tmp_path / "model")
    assert generate("--prompt", "x", "--out", "a.mp4") == generate("--repeat", "a.mp4", "--out", "b.mp4") == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()


def test_an_adapter_changes_what_is_made(
    generate: Generate, tiny_pipe: VideoPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And fits the model that it was trained on alone."""
    add_lora(tiny_pipe.transformer, LoRAConfig(rank=2))
    folders = [tmp_path / "new", tmp_path / "trained"]
    for folder in folders:
        folder.mkdir()
        save_lora(tiny_pipe.transformer, folder, "a-model")
        for name, parameter in tiny_pipe.transformer.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(0.5)
    outs = {"none": [], "new": ["--lora", str(folders[0])], "trained": ["--lora", str(folders[1])]}
    for out, arguments in outs.items():
        assert generate("--prompt", "x", "--seconds", "1", "--pictures", "--out", out, *arguments) == 0
    none, new, trained = (read(Path(out)) for out in outs)
    assert np.array_equal(none, new)
    assert not np.array_equal(none, trained)
    capsys.readouterr()
    add_to = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(add_to)
    save_file({name: -tensor for name, tensor in weights.items()}, add_to)
    assert generate("--prompt", "x", "--lora", str(folders[1]), "--out", "other.mp4") == 2
    assert "was trained on another model: use --model a-model" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("other.mp4").exists()


def test_an_adapter_that_is_not_there_is_refused_at_once(refuse: Callable[..., str]) -> None:
    assert "--lora nowhere: no such file" in refuse("--prompt", "x", "--lora", "nowhere")


def test_the_video_that_is_continued_stays(refuse: Callable[..., str]) -> None:
    """Neither the video nor its contact sheet may take its place."""
    Path("a.png").write_bytes(b"whatever it is")
    Path("a.webm").write_bytes(b"")
    for video, out in (("a.webm", "a.webm"), ("a.png", "a.gif"), ("a.png", "a")):
        pictures = [] if "." in out else ["--pictures"]
        assert "choose another name" in refuse("--video", video, "--extend", "forward", "--out", out, *pictures)
