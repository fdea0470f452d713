"""The commands as a user calls them: what they write, what they refuse, with which exit code."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_training import CLIPS, TINY

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "checkpoints" / "sora-tiny"
PROMPT = "a red sphere bounces on the ground, the camera orbits slowly"


def run(*command: str | Path, cwd: Path = ROOT, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def generate(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, ROOT / "tools" / "generate.py", *arguments, cwd=cwd)


def deepspeed(program: str, *arguments: str | Path, ranks: int = 1, timeout: float = 600):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = Path(sys.executable).parent / "deepspeed"
    words = [launcher, "--master_port", str(port), "--num_accelerators", str(ranks), program, *arguments]
    return run(*words, timeout=timeout)


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last, last


def load_generate() -> Any:
    """tools/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tools" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same_weights(*files: Path) -> None:
    """What a step of next to no length leaves of the weights it began with, in bf16."""
    import torch
    from safetensors.torch import load_file

    first, second = (load_file(file) for file in files)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_names_of_files_tell_prompts_apart() -> None:
    tool = load_generate()

    def name(prompt: str) -> str:
        return tool.output_paths(tool.parse_arguments(["--prompt", prompt]))[0].name

    assert name("A red ball, rolling.") == "a-red-ball-rolling-0.mp4"
    for first, second in (("word " * 30 + "red", "word " * 30 + "blue"), ("a 红 ball", "a 蓝 ball"), ("球", "")):
        assert name(first) != name(second)


def test_what_failed_and_what_was_wrong_differ_in_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_generate()
    monkeypatch.setattr(sys, "argv", ["generate.py", "--prompt", "x"])
    for error, code in ((OSError("no space left"), 1), (ValueError("no\nsize"), 2), (KeyboardInterrupt(), 130)):

        def fail(args: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(tool, "run", fail)
        assert tool.main() == code
    assert capsys.readouterr().err.splitlines()[:2] == ["generate.py: no space left", "generate.py: no size"]


def test_help_is_quick() -> None:
    began = time.perf_counter()
    result = generate("--help")
    assert result.returncode == 0
    assert "--extend" in result.stdout
    assert time.perf_counter() - began < 1.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "x", "--size", "50x64"], ["width=50", "multiple of 16", "48 or 64"]),
        (["--prompt", "x", "--size", "big"], ["--size", "64x64"]),
        (["--prompt", "x", "--seconds", "0"], ["--seconds", "above 0"]),
        (["--prompt", "x", "--seconds", "nan"], ["--seconds", "above 0"]),
        (["--prompt", "x", "--steps", "0"], ["--steps", "at least 1"]),
        (["--prompt", "x", "--guidance-scale", "0.5"], ["guidance_scale=0.5"]),
        (["--prompt", "x", "--context-level", "2"], ["context_level=2"]),
        (["--prompt", "x", "--device", "warp"], ["--device warp"]),
        (["--prompt", "x", "--model", "nowhere"], ["nowhere", "model_index.json"]),
        (["--prompt", "x", "--out", "video.avi"], ["--out video.avi", ".mp4"]),
        (["--video", "nowhere.mp4", "--extend", "forward"], ["nowhere.mp4", "no such file"]),
        (["--video", "README.md"], ["--extend"]),
        (["--video", str(ROOT / "README.md"), "--extend", "forward"], ["README.md"]),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_generate_refuses(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    assert_refused(generate(*arguments, cwd=tmp_path), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_a_missing_part_is_refused(tmp_path: Path) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    shutil.rmtree(model / "vae")
    assert_refused(generate("--prompt", "x", "--model", model), "lacks vae/")


def test_a_video_shorter_than_one_group_is_refused(tmp_path: Path) -> None:
    import torch

    from data.video import write_video

    write_video(tmp_path / "short.mp4", torch.zeros(3, 64, 64, 3, dtype=torch.uint8), 8.0)
    result = generate("--video", tmp_path / "short.mp4", "--extend", "backward", "--out", tmp_path / "out.mp4")
    assert_refused(result, "3 frames", "at least 5")
    assert not (tmp_path / "out.mp4").exists()


def test_red_sphere_is_red_and_on_the_ground(tmp_path: Path) -> None:
    """The README's clip: a red object, in the lower part of the picture often enough, and not everywhere."""
    from data.video import read_video

    result = generate("--prompt", PROMPT, "--seconds", "10", "--out", tmp_path / "red.mp4")
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "red.mp4") in result.stdout
    assert (tmp_path / "red.png").is_file()
    clip = read_video(tmp_path / "red.mp4")
    assert clip.frames.shape[0] == 81
    red, green, blue = clip.frames.float().unbind(-1)
    is_red = (red > green + 50) & (red > blue + 50)  # t h w
    share = is_red.float().mean(dim=(1, 2))
    assert (share > 0.005).float().mean() > 0.9, share
    assert share.max() < 0.5
    rows = is_red.nonzero()[:, 1].float() / is_red.shape[1]
    assert 0.2 < rows.mean() < 0.9


def test_train_refuses_unknown_keys() -> None:
    result = run(sys.executable, "train.py", "--config", "sora_tiny.yaml", "train.learning=1")
    assert_refused(result, "train.learning")


def test_train_refuses_a_missing_config() -> None:
    assert_refused(run(sys.executable, "train.py", "--config", "nothing.yaml"), "nothing.yaml", "sora_tiny.yaml")


def test_train_saves_resumes_and_generates(tmp_path: Path) -> None:
    settings = [*TINY, f"run_dir={tmp_path}/run", f"data.cache={tmp_path}/cache", "train.save_every=2"]
    for steps in (2, 3):
        result = deepspeed("train.py", "--config", "sora_tiny.yaml", *settings, f"train.max_steps={steps}")
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-3"
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert sum('"train/loss"' in line for line in lines) == 3
    assert (tmp_path / "run/loss.png").is_file()
    assert list((tmp_path / "run/tensorboard").iterdir())
    result = generate("--prompt", "x", "--model", tmp_path / "run/model", "--steps", "1", "--out", tmp_path / "v.mp4")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "v.mp4").is_file()


@pytest.mark.slow
def test_train_goes_on_from_given_weights(tmp_path: Path) -> None:
    settings = [*CLIPS, "data.validation_packs=1", "data.sample_prompts=[]"]
    settings += [f"run_dir={tmp_path}/run", f"data.cache={tmp_path}/cache", "train.max_steps=1"]
    settings += ["train.lr=1e-12", "train.muon_lr=1e-12"]
    result = deepspeed("train.py", "--config", "sora_tiny.yaml", *settings, f"train.init_from={MODEL}")
    assert result.returncode == 0, result.stderr
    for part in ("transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert_same_weights(MODEL / part, tmp_path / "run/model" / part)
    other = [f"run_dir={tmp_path}/other", "text.encoder=''", f"train.init_from={MODEL}"]
    assert_refused(deepspeed("train.py", "--config", "sora_tiny.yaml", *settings, *other), "another text encoder")


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """The same packs: two ranks, or one rank that accumulates two."""
    losses = []
    for ranks in (1, 2):
        run_dir = tmp_path / f"run{ranks}"
        settings = [*TINY, f"run_dir={run_dir}", f"data.cache={tmp_path}/cache", "train.decay_steps=0"]
        accumulation = f"train.accumulation={2 // ranks}"
        for steps in (3,) if ranks == 1 else (2, 3):  # two ranks resume as well
            command = ["train.py", "--config", "sora_tiny.yaml", *settings, accumulation, f"train.max_steps={steps}"]
            result = deepspeed(*command, ranks=ranks)
            assert result.returncode == 0, result.stderr
        records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        losses.append([r["train/loss"] for r in records if "train/loss" in r])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)  # bf16


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_sora_small_takes_two_steps(tmp_path: Path) -> None:
    settings = [f"run_dir={tmp_path}/run", f"data.cache={tmp_path}/cache", "data.token_budget=1000"]
    settings += ["data.workers=0", "data.validation_packs=1", "data.sample_prompts=[]", "train.max_steps=2"]
    result = deepspeed("train.py", "--config", "sora_small.yaml", *settings, timeout=1500)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-2"


SMALL_VAE = [f"model.{half}_{size}" for half in ("encoder", "decoder") for size in ("width=16", "depth=1")]


def test_train_vae_trains_and_resumes(tmp_path: Path) -> None:
    settings = [*SMALL_VAE, f"run_dir={tmp_path}/vae"]
    settings += ["data.world_clips=4", "data.world_sizes=[[32,32]]", "data.batches=[[2,9,32,32],[3,1,32,32]]"]
    settings += [f"data.cache={tmp_path}/cache", "data.workers=0", "train.save_every=2"]
    for steps in (2, 3):
        result = deepspeed("tools/train_vae.py", "--config", "vae_tiny.yaml", *settings, f"train.max_steps={steps}")
        assert result.returncode == 0, result.stderr
    from vae3d import LatentCodec

    codec = LatentCodec.from_pretrained(tmp_path / "vae")
    assert codec.frame_rule == (4, 1)
    assert (tmp_path / "vae/validation.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_train_vae_on_two_ranks_resumes_as_if_uninterrupted(tmp_path: Path, stage: int) -> None:
    """Matrices and Muon's momentum are cut up between the ranks."""
    settings = [*SMALL_VAE, "data.world_clips=4", "data.world_sizes=[[32,32]]", "data.batches=[[2,9,32,32]]"]
    settings += [f"data.cache={tmp_path}/cache", "train.save_every=2", f"train.zero_stage={stage}"]
    settings += ["train.optimizer=muon", "train.decay_steps=0"]
    for name, all_steps in (("whole", (4,)), ("resumed", (2, 4))):
        for steps in all_steps:
            command = ["tools/train_vae.py", "--config", "vae_tiny.yaml", *settings, f"run_dir={tmp_path}/{name}"]
            result = deepspeed(*command, f"train.max_steps={steps}", ranks=2)
            assert result.returncode == 0, result.stderr
    file = "vae/diffusion_pytorch_model.safetensors"
    assert_same_weights(tmp_path / "whole" / file, tmp_path / "resumed" / file)


@pytest.mark.slow
def test_train_vae_goes_on_from_given_weights(tmp_path: Path) -> None:
    settings = ["data.world_clips=4", "data.world_sizes=[[32,32]]", "data.batches=[[2,9,32,32]]", "train.lr=1e-44"]
    settings += ["train.muon_lr=1e-44", f"train.init_from={MODEL}"]
    settings += [f"run_dir={tmp_path}/run", f"data.cache={tmp_path}/cache"]
    result = deepspeed("tools/train_vae.py", "--config", "vae_tiny.yaml", *settings, "train.max_steps=1")
    assert result.returncode == 0, result.stderr
    file = "vae/diffusion_pytorch_model.safetensors"
    assert_same_weights(MODEL / file, tmp_path / "run" / file)
    shutil.rmtree(tmp_path / "run/vae")  # as if it had been stopped before it wrote this
    result = deepspeed("tools/train_vae.py", "--config", "vae_tiny.yaml", *settings, "train.max_steps=1")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / file).is_file()


@pytest.mark.parametrize(
    ("batch", "word"), [("[3,17,64]", "clips, frames"), ("[3,16,64,64]", "1 + 4k"), ("[3,17,64,60]", "multiples of 8")]
)
def test_train_vae_refuses_batches_that_do_not_fit(batch: str, word: str) -> None:
    result = run(sys.executable, "tools/train_vae.py", "--config", "vae_tiny.yaml", f"data.batches=[{batch}]")
    assert_refused(result, "data.batches", word)


def test_train_vae_refuses_other_autoencoders_to_start_from(tmp_path: Path) -> None:
    command = [sys.executable, "tools/train_vae.py", "--config", "vae_tiny.yaml", f"run_dir={tmp_path}"]
    assert_refused(run(*command, f"train.init_from={tmp_path}"), str(tmp_path), "no autoencoder")
    width = json.loads((MODEL / "vae/config.json").read_text())["encoder_width"]
    other = [f"train.init_from={MODEL}", "model.encoder_width=64"]
    assert_refused(run(*command, *other), "model.encoder_width=64", f"use model.encoder_width={width}")


@pytest.mark.slow
def test_train_vae_reports_damaged_clips_once_and_stops_where_none_is_left(tmp_path: Path) -> None:
    rows = ["path,text,width,height,fps,num_frames", "gone.mp4,a clip,64,64,8,65", "damaged.mp4,a clip,64,64,8,65"]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    settings = [*SMALL_VAE, f"run_dir={tmp_path}/vae"]
    settings += ["data.world_clips=2", "data.world_sizes=[[32,32]]", "data.batches=[[1,9,32,32]]"]
    settings += [f"data.cache={tmp_path}/cache", f"data.manifest={tmp_path}/clips.csv", "data.world_share=0"]
    result = deepspeed("tools/train_vae.py", "--config", "vae_tiny.yaml", *settings, "train.max_steps=1")
    assert result.returncode != 0
    assert "no clip of a batch's size can be read" in result.stderr
    assert 2 <= result.stderr.count("left out") <= 4  # two files, by this process and perhaps by its worker


def test_kept_frames_of_a_real_clip_are_untouched(clips: Path) -> None:
    """Bit for bit, in both directions, before the file encoder."""
    import torch

    from data.transforms import fit
    from data.video import read_video
    from video_dit import VideoPipeline

    pipe = VideoPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    frames = fit(read_video(clips / "test" / "CogVideo__horse.mp4", seconds=2.5, frame_rate=8.0).frames, 48, 80)
    for direction in ("forward", "backward"):
        generator = torch.Generator().manual_seed(0)
        longer = pipe.extend(frames, direction, seconds=1, num_inference_steps=2, generator=generator).frames[0]
        levels = torch.as_tensor(longer).mul(255).round().to(torch.uint8)
        assert len(levels) == len(frames) + 8
        assert torch.equal(levels[: len(frames)] if direction == "forward" else levels[8:], frames)


def test_a_continued_file_is_not_overwritten(tmp_path: Path) -> None:
    import torch

    from data.video import write_video

    write_video(tmp_path / "clip.mp4", torch.zeros(9, 64, 64, 3, dtype=torch.uint8), 8.0)
    result = generate("--video", tmp_path / "clip.mp4", "--extend", "forward", "--out", tmp_path / "clip.mp4")
    assert_refused(result, "clip.mp4", "choose another name")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_trains_on_a_manifest_with_a_damaged_clip(stage: int, tmp_path: Path) -> None:
    from data.video import write_video
    from data.world import sample_scene

    rows = ["path,text,width,height,fps,num_frames"]
    for seed in range(3):
        scene = sample_scene("train", seed)
        write_video(tmp_path / f"{seed}.mp4", scene.render(41, 64, 64, 8.0), 8.0)
        rows.append(f'{seed}.mp4,"{scene.caption()}",,,,')
    (tmp_path / "damaged.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:500])
    rows += ["damaged.mp4,not found out until it is read,64,64,8,41", "gone.mp4,nor this one,64,64,8,41"]
    (tmp_path / "clips.csv").write_text("\n".join(rows) + "\n")
    settings = [*TINY, f"run_dir={tmp_path}/run", f"data.cache={tmp_path}/cache", "train.max_steps=2"]
    settings += [f"data.manifest={tmp_path}/clips.csv", f"train.zero_stage={stage}"]
    result = deepspeed("train.py", "--config", "sora_tiny.yaml", *settings, ranks=2)
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "train/loss" in record]
    assert len(steps) == 2
    assert sum(record["train/left_out"] for record in steps) > 0


@pytest.mark.slow
def test_validation_loss_falls(tmp_path: Path) -> None:
    settings = [*TINY, f"run_dir={tmp_path}/run", f"data.cache={tmp_path}/cache", "train.max_steps=90"]
    result = deepspeed("train.py", "--config", "sora_tiny.yaml", *settings, "train.save_every=30", "train.lr=5e-3")
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [r["validation/loss"] for r in records if "validation/loss" in r]
    assert len(losses) == 3
    assert losses[2] < losses[1] < losses[0]
