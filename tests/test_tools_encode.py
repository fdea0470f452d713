"""tools/encode.py: the same files from one rank or several, stopped or not; and training on them."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest
import torch

from data.shards import Shards, read_left_out
from data.video import VideoError, write_video
from vae3d import LatentCodec
from video_dit.batch import stored_embeds
from video_dit.config import RunConfig, load_config
from video_dit.sources import check_text, training_clips
from video_dit.text import TextConfig, byte_t5, encode_prompts, load_text_encoder

ROOT = Path(__file__).parents[1]
SETTINGS = ["data.num_clips=11", "data.num_frames=9", "data.window_frames=9", "data.sizes=[[32,32],[32,48]]"]
SETTINGS += ["text.encoder=''", "data.workers=0"]


def command(out: Path, *more: str) -> list[str]:
    program = [sys.executable, str(ROOT / "tools/encode.py"), "--config", "sora_tiny.yaml", "--out", str(out)]
    return [*program, "--shard-size", "2", *SETTINGS, *more]


def encode(out: Path, *more: str, rank: int = 0, world: int = 1) -> subprocess.CompletedProcess[str]:
    ranks = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    environment = {**os.environ, **ranks}
    return subprocess.run(command(out, *more), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "latents"
    done = encode(out)
    assert done.returncode == 0, done.stderr
    assert "11 clips in 6 of 6 shards" in done.stdout
    return out


def test_ranks_that_start_at_once_share_the_work(whole: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as ranks:
        done = list(ranks.map(lambda rank: encode(tmp_path / "out", rank=rank, world=2), range(2)))
    assert [one.returncode for one in done] == [0, 0], done
    assert files(tmp_path / "out") == files(whole)


def test_what_cannot_be_read_is_told_and_stays_told(tmp_path: Path) -> None:
    for name in "ab":
        write_video(tmp_path / f"{name}.mp4", torch.full((12, 32, 32, 3), 90, dtype=torch.uint8), 8)
    damaged = (tmp_path / "b.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(damaged[: len(damaged) // 2])
    rows = [f"{name}.mp4,what {name} shows,32,32,8,12" for name in "ab"]
    (tmp_path / "clips.csv").write_text("\n".join(["path,text,width,height,fps,num_frames", *rows]))
    for _ in range(2):  # the second run finds all done
        done = encode(tmp_path / "out", f"data.manifest={tmp_path / 'clips.csv'}")
        assert done.returncode == 0, done.stderr
        assert "1 of 2 clips are damaged" in done.stdout
    (left_out,) = read_left_out(tmp_path / "out")
    assert left_out.index == 1
    assert "b.mp4: " in left_out.reason


def test_settings_may_stand_on_both_sides(tmp_path: Path) -> None:
    words = [sys.executable, "tools/encode.py", "data.num_clips=0", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*words, "--config", "sora_tiny.yaml", "data.num_frames=9"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2
    assert "data.num_clips=0 must be at least 1" in done.stderr


def test_workers_make_the_same(whole: Path, tmp_path: Path) -> None:
    done = encode(tmp_path / "out", "data.workers=2")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "out") == files(whole)


@pytest.mark.slow
def test_killed_and_run_again_is_as_if_uninterrupted(whole: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(command(tmp_path / "out", "data.workers=2"), cwd=ROOT, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (tmp_path / "out/shard-00001.tar").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/index.json").exists()
    (tmp_path / "out/.shard-00005.tar.1.tmp").write_bytes(b"as a kill in the midst of a shard leaves it")
    assert encode(tmp_path / "out").returncode == 0
    assert files(tmp_path / "out") == files(whole)


def test_other_settings_are_refused(whole: Path) -> None:
    done = encode(whole, "data.num_clips=12")
    assert done.returncode == 2
    assert "was begun with clips 11, not 12: give a new folder" in done.stderr.splitlines()[-1]


def test_the_index_says_what_they_are(whole: Path) -> None:
    settings = json.loads((whole / "index.json").read_text())
    assert settings["codec"] == "VideoVAE"
    assert settings["weights"] == LatentCodec.from_pretrained("checkpoints/sora-tiny").fingerprint()
    assert settings["sizes"] == [[32, 32], [32, 48]]
    clips = [json.loads(line) for line in (whole / "index.jsonl").read_text().splitlines()]
    assert [clip["index"] for clip in clips] == list(range(11))
    assert all(1 < len(set(clip["texts"])) <= 8 for clip in clips)


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 that reads bytes, on disk."""
    folder = tmp_path_factory.mktemp("t5")
    tokenizer, encoder = byte_t5(TextConfig(width=32, num_layers=1, num_heads=2, hidden=32))
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_embeddings_of_a_frozen_encoder_are_those_that_training_would_make(text_encoder: Path, tmp_path: Path) -> None:
    setting = f"text.encoder={text_encoder}"
    done = encode(tmp_path / "out", setting)
    assert done.returncode == 0, done.stderr
    config = load_config(RunConfig, "sora_tiny.yaml", [*SETTINGS, setting, f"data.latents={tmp_path / 'out'}"])
    codec = LatentCodec.from_pretrained(config.vae.path)
    shards = training_clips(config, codec)
    assert isinstance(shards, Shards)
    tokenizer, encoder = load_text_encoder(config.text)
    check_text(shards, tokenizer, encoder)
    for index in (0, 10):
        tensors = shards.get(shards.key(index))
        for epoch in (0, 1, 9):
            with torch.no_grad():
                embeds, _ = encode_prompts(tokenizer, encoder, [shards.text(index, epoch)])
            stored = stored_embeds(tensors, epoch)
            assert stored is not None
            assert torch.equal(stored, embeds.bfloat16())
    with torch.no_grad():
        next(encoder.parameters()).add_(0.1)
    with pytest.raises(ValueError, match=r"was made with text_encoder .*: use the same text"):
        check_text(shards, tokenizer, encoder)


def test_without_a_frozen_encoder_there_are_none(whole: Path) -> None:
    config = load_config(RunConfig, "sora_tiny.yaml", [*SETTINGS, f"data.latents={whole}"])
    shards = training_clips(config, LatentCodec.from_pretrained(config.vae.path))
    assert isinstance(shards, Shards)
    assert stored_embeds(shards.get(shards.key(0)), 0) is None
    check_text(shards, *byte_t5(config.text))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT])
def test_a_disk_that_fails_ends_the_run(
    load_tool: Callable[[str], ModuleType], tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its clips are not taken for damaged ones, which would never be looked at again."""
    tool = load_tool("encode")

    def load(clips: object, index: int) -> object:
        error = VideoError(tmp_path / ("gone" if number == errno.ENOENT else ""), "not a video")
        raise error from OSError(number, "no")

    monkeypatch.setattr("data.dataset.WorldClips.load", load)
    words = ["--config", "sora_tiny.yaml", "--out", str(tmp_path / "out"), *SETTINGS]
    monkeypatch.setattr(sys, "argv", ["encode.py", *words])
    assert tool.main() == 1
    assert not list((tmp_path / "out").glob("shard*"))


def test_a_file_in_place_of_the_folder_is_a_mistake(
    load_tool: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "out").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["encode.py", "--config", "sora_tiny.yaml", "--out", str(tmp_path / "out")])
    assert load_tool("encode").main() == 2
    assert (
        capsys.readouterr().err == f"encode.py: --out {tmp_path / 'out'}: {tmp_path / 'out'} is a file: give a folder\n"
    )
