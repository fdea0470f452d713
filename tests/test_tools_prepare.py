"""tools/prepare.py: what its folders hold, that they depend on the command alone, and what is refused."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from data.dataset import WorldClips
from data.manifest import read_manifest
from data.manifest_clips import ManifestClips
from data.transforms import to_float
from data.video import write_video
from data.world import sample_scene
from data.world.caption import CAPTION_STYLES
from vae3d import LatentCodec, VideoVAE

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "prepare.py"
SMALL = ("--num-frames", "5", "--size", "32x32")


@pytest.fixture(scope="module")
def prepare(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("prepare")


@pytest.fixture(scope="module")
def made(prepare: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of clips of seeds 0 to 2, made in this process; it is not to be changed."""
    folder = tmp_path_factory.mktemp("world") / "made"
    run(prepare, "--count", "3", "--out", folder)
    return folder


def run(prepare: ModuleType, *arguments: str | Path) -> None:
    """The command in this process."""
    words = ["world", *SMALL, "--workers", "0", *map(str, arguments)]
    prepare.prepare_world(prepare.parse_arguments(words))


def start(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a user starts it."""
    words = [sys.executable, TOOL, "world", *SMALL, *arguments]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fail(*_: object) -> None:
    raise AssertionError("made again what was there")


def test_bytes_are_those_of_any_number_of_workers(made: Path, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        result = start("--count", "3", "--out", tmp_path / workers, "--workers", workers)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("3 clips in ")
        assert result.stdout.rstrip().endswith(str(tmp_path / workers))
        assert contents(tmp_path / workers) == contents(made)


def test_a_killed_run_goes_on(prepare: ModuleType, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("settings.json", "00000000.json", "00000000.mp4", "00000001.json"):
        (folder / name).write_bytes((made / name).read_bytes())
    for name in (".00000001.mp4.123.tmp", ".settings.json.123.tmp", ".index.csv.123.tmp"):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (0, 0))
    kept = (folder / "00000000.mp4").stat().st_mtime_ns
    run(prepare, "--count", "3", "--out", folder)
    assert contents(folder) == contents(made)
    assert (folder / "00000000.mp4").stat().st_mtime_ns == kept
    monkeypatch.setattr("data.world.scene.render_scene", fail)
    run(prepare, "--count", "3", "--out", folder)
    assert contents(folder) == contents(made)


def test_what_another_run_writes_of_the_folder_stays(prepare: ModuleType, tmp_path: Path) -> None:
    names = {".settings.json.123.tmp", ".index.csv.123.tmp", ".00000003.mp4.123.tmp"}
    for name in (*names, ".00000002.mp4.123.tmp"):
        (tmp_path / name).write_bytes(b"half")
    prepare.remove_drafts(tmp_path, range(3))
    assert set(contents(tmp_path)) == names


def test_a_run_stopped_on_the_way_leaves_whole_files(
    prepare: ModuleType, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import data.video_write

    pictures = iter(range(7))  # the second clip's encoding is stopped

    def exhausted(*arguments: object, **options: object) -> object:
        if next(pictures, None) is None:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    original = data.video_write.VideoFrame.from_ndarray
    folder = tmp_path / "out"
    words = ["prepare.py", "world", *SMALL, "--workers", "0", "--count", "3", "--out", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr(data.video_write, "VideoFrame", type("Frames", (), {"from_ndarray": staticmethod(exhausted)}))
        patch.setattr(sys, "argv", words)
        assert prepare.main() == 130
    names = {"settings.json", "00000000.json", "00000000.mp4", "00000001.json"}
    assert contents(folder) == {name: (made / name).read_bytes() for name in names}
    run(prepare, "--count", "3", "--out", folder)
    assert contents(folder) == contents(made)


def test_more_clips_join_those_that_are_there(prepare: ModuleType, made: Path, tmp_path: Path) -> None:
    """The manifest lists the whole folder, whichever runs made it."""
    run(prepare, "--first-seed", "2", "--count", "1", "--out", tmp_path / "out")
    assert [record.path.name for record in read_manifest(tmp_path / "out/index.csv")] == ["00000002.mp4"]
    run(prepare, "--count", "2", "--out", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(made)


def test_other_settings_are_refused(made: Path, prepare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(made)
    result = start("--count", "3", "--out", made, "--frame-rate", "12")
    assert result.returncode == 2
    assert result.stderr == f"prepare.py: --out {made} was made with frame_rate 8.0, not 12.0: give a new folder\n"
    for others, word in (
        (["--split", "test"], "split train, not test"),
        (["--num-frames", "9"], "num_frames 5, not 9"),
        (["--size", "32x32", "48x32"], "sizes"),
        (["--latents"], "stored"),
    ):
        with pytest.raises(ValueError, match=word):
            run(prepare, "--count", "3", "--out", made, *others)
    monkeypatch.setattr("data.dataset.WORLD_VERSION", 1)
    with pytest.raises(ValueError, match="world_version 2, not 1"):
        run(prepare, "--count", "3", "--out", made)
    assert contents(made) == before


def test_folders_of_other_things_are_refused(prepare: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for out, word in ((tmp_path, "no settings.json"), (tmp_path / "notes.txt", "is a file")):
        with pytest.raises(ValueError, match=word):
            run(prepare, "--count", "1", "--out", out)
    (tmp_path / "settings.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="is damaged"):
        run(prepare, "--count", "1", "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--size", "33x32"], "use 32x32"),
        (["--size", "128"], "like 64x64"),
        (["--size", "4x4"], "8 or more"),
        (["--frame-rate", "0.1"], "0.5 to 240"),
        (["--count", "0"], "at least 1"),
        (["--first-seed", "-1"], "first-seed"),
    ],
)
def test_bad_options_are_refused(
    prepare: ModuleType, arguments: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        prepare.parse_arguments(["world", "--count", "1", "--out", str(tmp_path / "out"), *arguments])
    assert stopped.value.code == 2
    assert word in capsys.readouterr().err.splitlines()[-1]


def test_the_manifest_can_be_trained_on(made: Path) -> None:
    records = read_manifest(made / "index.csv", split="train")
    world = WorldClips("train", 3, 5, [(32, 32)], [8.0])
    clips = ManifestClips(made / "index.csv", "train", 5, [(32, 32)], 8.0, 4)
    assert len(records) == len(clips) == 3
    for index, record in enumerate(records):
        known = record.path.name, record.width, record.height, record.fps, record.num_frames, record.split
        assert known == (f"{index:08d}.mp4", 32, 32, 8.0, 5, "train")
        stored, rendered = clips.load(index), world.load(index)
        assert clips.text(index, 0) == record.text == world.text(index, 0)
        assert stored.frame_rate == rendered.frame_rate
        error = (stored.frames.double() - rendered.frames.double()).square().mean()
        assert 10 * torch.log10(255**2 / error) > 30


def test_truth_files_tell_the_truth(prepare: ModuleType, tmp_path: Path) -> None:
    """At an aspect other than 1, and with several sizes."""
    run(prepare, "--first-seed", "4", "--count", "2", "--split", "test", "--size", "48x32", "32x48", "--out", tmp_path)
    world = WorldClips("test", 6, 5, [(32, 48), (48, 32)], [8.0])
    for seed in (4, 5):
        facts = json.loads((tmp_path / f"{seed:08d}.json").read_text())
        scene, shape = sample_scene("test", seed), world.shape(seed)
        truth = scene.truth(5, 8.0).at_aspect(shape.width / shape.height)
        assert (facts["width"], facts["height"]) == (shape.width, shape.height)
        assert (facts["split"], facts["seed"], facts["frame_rate"], facts["num_frames"]) == ("test", seed, 8.0, 5)
        assert facts["captions"] == {style: scene.caption(style) for style in CAPTION_STYLES}
        assert facts["style"] == world.style(seed)
        place = (facts["camera"], facts["ground"], facts["time_of_day"])
        assert place == (scene.camera.motion, scene.ground, scene.time_of_day)
        told = {(relation["first"], relation["word"], relation["second"]) for relation in facts["relations"]}
        assert told == {(relation.first, relation.word, relation.second) for relation in scene.relations}
        assert len(facts["objects"]) == len(scene.objects)
        for fact, obj, depths in zip(facts["objects"], truth.objects, truth.depths, strict=True):
            for name in ("shape", "colour", "size", "material", "motion", "direction"):
                assert fact[name] == getattr(obj, name)
            torch.testing.assert_close(torch.tensor(fact["centres"]), obj.centres, rtol=0, atol=2e-5)
            torch.testing.assert_close(torch.tensor(fact["depths"]), depths, rtol=0, atol=2e-5)
            assert fact["visible"] == obj.visible.tolist()


def test_latents_are_those_of_the_renders(prepare: ModuleType, tiny_vae: VideoVAE, tmp_path: Path) -> None:
    tiny_vae.save_pretrained(tmp_path / "model/vae")
    arguments = ["--count", "6", "--size", "32x32", "40x32", "--latents", "--model", tmp_path / "model", "--out"]
    run(prepare, *arguments, tmp_path / "out")
    codec, world = LatentCodec(tiny_vae), WorldClips("train", 6, 5, [(32, 32), (32, 40)], [8.0])
    assert len({world.shape(seed) for seed in range(6)}) == 2
    for seed, record in enumerate(read_manifest(tmp_path / "out/index.csv")):
        latents = load_file(record.path)["latents"]
        expected = codec.encode(to_float(world.load(seed).frames)[None])[0]
        assert latents.dtype == torch.float32
        assert record.width == world.shape(seed).width
        torch.testing.assert_close(latents, expected, rtol=0, atol=1e-4)
    whole = contents(tmp_path / "out")
    assert len(whole) == 2 * 6 + 2
    for name in ("00000003.safetensors", "00000004.json", "index.csv"):
        (tmp_path / "out" / name).unlink()
    run(prepare, *arguments, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_latents_need_sizes_and_another_codec_another_folder(
    prepare: ModuleType, tiny_vae: VideoVAE, tmp_path: Path
) -> None:
    tiny_vae.save_pretrained(tmp_path / "model/vae")
    arguments = ["--count", "1", "--latents", "--model", tmp_path / "model", "--out", tmp_path / "out"]
    for others, word in ((["--size", "36x32"], "width=36 must be a multiple of 8"), (["--num-frames", "6"], "5 or 9")):
        with pytest.raises(ValueError, match=word):
            run(prepare, *arguments, *others)
    assert not (tmp_path / "out").exists()
    run(prepare, *arguments)
    with torch.no_grad():
        next(tiny_vae.parameters()).mul_(2)
    tiny_vae.save_pretrained(tmp_path / "model/vae")
    with pytest.raises(ValueError, match="latents of codec"):
        run(prepare, *arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line(prepare: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use --device cpu"):
        run(prepare, "--count", "1", "--out", tmp_path, "--device", "cuda")


def make_videos(folder: Path) -> None:
    """Two that are good, with captions of two kinds, one of two shots, one each that is black, still, a twin, damaged,
    and one without a caption."""
    folder.mkdir()
    noise = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (6, 60, 3), generator=noise).repeat_interleave(8, 0).repeat_interleave(8, 1)
    slides = torch.stack([picture[:, t : t + 64] for t in range(144)]).to(torch.uint8)  # t h w c
    write_video(folder / "a.mp4", slides[:24], 12)
    write_video(folder / "b.webm", slides[24:48].flip(2), 12)
    write_video(folder / "cut.mp4", torch.cat([slides[48:72], 255 - slides[72:96]]), 12)
    write_video(folder / "black.mp4", torch.zeros_like(slides[:24]), 12)
    write_video(folder / "still.mp4", slides[:1].expand(24, -1, -1, -1), 12)
    write_video(folder / "twin.mp4", slides[:24], 12, crf=30)
    write_video(folder / "untold.mp4", slides[96:120].flip(1), 12)
    (folder / "damaged.mp4").write_bytes(b"no video")
    for name in ("a", "cut", "black", "still", "twin"):
        (folder / f"{name}.txt").write_text(f"what {name} shows\n")
    (folder / "b.json").write_text('{"caption": "what b shows"}')


def videos(folder: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, TOOL, "videos", folder, "--out", out, *more]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``videos`` and ``out``, the data set made of them; both are not to be changed."""
    folder = tmp_path_factory.mktemp("prepared")
    make_videos(folder / "videos")
    done = videos(folder / "videos", folder / "out", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "8 files, 8 shots" in done.stdout
    assert "4 clips, 0.1 minutes" in done.stdout
    assert "5 left out" in done.stdout
    assert "--caption-model" in done.stdout
    return folder


def test_a_folder_of_videos_becomes_a_manifest(prepared: Path) -> None:
    records = read_manifest(prepared / "out/index.csv")
    assert [(record.path.name, record.text) for record in records] == [
        ("a.mp4", "what a shows"),
        ("b.webm", "what b shows"),
        ("cut.mp4", "what cut shows"),
        ("cut.mp4", "what cut shows"),
    ]
    assert [(record.start, record.end) for record in records[2:]] == [(0.0, 2.0), (2.0, 4.0)]
    with (prepared / "out/left_out.csv").open() as file:
        left_out = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert left_out.pop("damaged.mp4").startswith("not a video")
    assert left_out == {
        "black.mp4": "black",
        "still.mp4": "still",
        "twin.mp4": "nearly the same as one before",
        "untold.mp4": "without a caption",
    }
    clips = ManifestClips(prepared / "out/index.csv", "train", 17, [(48, 64)], 8.0, 4)
    assert len(clips) == 4
    assert clips.load(3).frames.shape == (13, 48, 64, 3)


def test_killed_and_run_again_is_as_if_uninterrupted(prepared: Path) -> None:
    """Killed when the third file is known, in the midst of a line; no file is looked at twice."""
    out = prepared / "killed"
    command = [sys.executable, str(TOOL), "videos", str(prepared / "videos"), "--out", str(out), "--workers", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        journal = out / "shots.jsonl"
        while not journal.exists() or journal.read_text().count("\n") < 3:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not (out / "index.csv").exists()
    with journal.open("a") as file:
        file.write('{"key": "cut o')
    known = journal.read_text().splitlines()[:3]
    (out / ".shots.jsonl.0123.tmp").write_text("as a kill in the midst of writing leaves it")
    assert videos(prepared / "videos", out).returncode == 0
    assert contents(out) == contents(prepared / "out")
    assert set(known) <= set(journal.read_text().splitlines())


def test_unchanged_files_are_not_opened_again(
    prepared: Path, prepare: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what could not be read: it may be sound by now. A manifest of other options does not stay."""
    import data.survey

    def survey(path: Path) -> object:
        assert path.name == "damaged.mp4"
        return original(path)

    original, out = data.survey.survey, tmp_path / "out"
    shutil.copytree(prepared / "out", out)
    monkeypatch.setattr(data.survey, "survey", survey)
    words = ["videos", str(prepared / "videos"), "--out", str(out), "--workers", "0", "--min-seconds", "3"]
    with pytest.raises(ValueError, match=r"no shot is left to train on \(8 shorter than 3 s; 1 not a video"):
        prepare.prepare_videos(prepare.parse_arguments(words))
    assert not (out / "index.csv").exists()


@pytest.mark.slow
def test_ray_makes_the_same_files(prepared: Path) -> None:
    done = videos(prepared / "videos", prepared / "by ray", "--engine", "ray")
    assert done.returncode == 0, done.stderr
    assert contents(prepared / "by ray") == contents(prepared / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "{out}"], "nowhere: no such file or folder"),
        (["{out}", "--out", "{out}"], "no file whose name ends as a video's does"),
        (["{videos}", "--out", "{out}", "--min-motion", "-1"], "min_motion=-1"),
        (["{videos}", "--out", "{out}", "--nearness", "-1"], "nearness=-1"),
        (["{videos}", "--out", "{out}", "--caption-model", "{out}"], "no image-text-to-text model that loads"),
        (["{videos}", "--out", "{videos}/a.mp4"], "a.mp4 is a file: give a folder"),
        (["{videos}", "--out", "{mine}"], "holds a file index.csv that is not of this program: give a new folder"),
    ],
)
def test_videos_says_in_a_line_what_is_wrong(
    prepared: Path,
    prepare: ModuleType,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(prepared / "out", tmp_path / "out")
    (tmp_path / "index.csv").write_text("my own work")
    places = {"out": tmp_path / "out", "videos": prepared / "videos", "mine": tmp_path}
    monkeypatch.setattr(sys, "argv", ["prepare.py", "videos", *(word.format(**places) for word in arguments)])
    assert prepare.main() == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prepare.py:")]
    assert message in line
    assert (tmp_path / "index.csv").read_text() == "my own work"
