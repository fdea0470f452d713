"""tools/train_vae.py: what a run writes, that it resumes bit for bit, and its parts."""

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from safetensors.torch import load_file
from torch import Tensor

from data.crops import CropConfig
from data.transforms import to_float
from data.video import write_video
from vae3d import LatentCodec, VideoVAE
from vae3d.losses import LossWeights
from video_dit.engine import TrainConfig
from video_dit.lora import LoRAConfig
from video_dit.stopping import Stop

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tool(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("train_vae")


def run_config(tool: ModuleType, run_dir: Path, **train: Any) -> Any:
    """A run of images and clips of two aspects that takes a second."""
    sizes = {"encoder_width": 8, "encoder_depth": 1, "decoder_width": 8, "decoder_depth": 1}
    crops = CropConfig(
        world_clips=3,
        world_frames=9,
        world_sizes=[[32, 48]],
        batches=[[2, 5, 16, 24], [1, 9, 32, 16], [3, 1, 16, 16]],
        cache="",
        workers=0,
    )
    return tool.VAEConfig(
        run_dir=str(run_dir),
        model=tool.ModelConfig(**sizes, thin_width=4, thin_depth=1, latent_channels=4),
        losses=LossWeights(equivariance=0.5),
        data=crops,
        train=TrainConfig(**{"max_steps": 6, "save_every": 3, "warmup_steps": 1, "optimizer": "muon", **train}),
    )


@pytest.mark.parametrize(("freeze", "zero_stage"), [(False, 0), (False, 1), (True, 2)])
def test_a_run_stopped_half_way_ends_in_the_same_weights(
    tool: ModuleType, one_rank: None, tmp_path: Path, freeze: bool, zero_stage: int
) -> None:
    start = random_start(tool, tmp_path) if freeze else ""
    whole, resumed = (
        replace(run_config(tool, tmp_path / name, init_from=start, zero_stage=zero_stage), freeze_encoder=freeze)
        for name in ("whole", "resumed")
    )
    tool.train(whole, tool.build_vae(whole), Stop())
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "set_learning_rate", stop_at(5, tool.set_learning_rate))
        tool.train(resumed, tool.build_vae(resumed), Stop())
    assert not (tmp_path / "resumed/checkpoints/step-6").exists()
    tool.train(resumed, tool.build_vae(resumed), Stop())
    ours, theirs = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "resumed"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for name in ("validation.png", "config.yaml", "loss.png"):
        assert (tmp_path / "resumed" / name).is_file()
    assert LatentCodec.from_pretrained(tmp_path / "resumed").frame_rule == (4, 1)


def random_start(tool: ModuleType, folder: Path) -> str:
    """A model folder with an autoencoder of the size of `run_config`, with random weights."""
    sizes = asdict(run_config(tool, folder).model)
    vae = VideoVAE(**sizes, latents_mean=[0.1] * 4, latents_std=[2.0] * 4)
    vae.bfloat16().save_pretrained(folder / "start" / "vae")
    return str(folder / "start")


@pytest.mark.parametrize(("zero_stage", "optimizer"), [(0, "muon"), (1, "adamw"), (3, "muon")])
def test_a_frozen_encoder_gives_the_latents_it_gave(
    tool: ModuleType, one_rank: None, tmp_path: Path, zero_stage: int, optimizer: str
) -> None:
    start = random_start(tool, tmp_path)
    config = run_config(tool, tmp_path / "run", init_from=start, zero_stage=zero_stage, optimizer=optimizer)
    frozen = replace(config, freeze_encoder=True)
    tool.train(frozen, tool.build_vae(frozen), Stop())
    given, trained = (LatentCodec.from_pretrained(folder) for folder in (start, tmp_path / "run"))
    assert given.fingerprint() == trained.fingerprint()
    latents = given.encode(torch.rand(1, 3, 5, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    assert not torch.equal(trained.decode(latents), given.decode(latents))


def test_an_encoder_is_frozen_only_where_there_is_one(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"freeze_encoder=true needs train\.init_from"):
        replace(run_config(tool, tmp_path), freeze_encoder=True)


def test_an_adapter_is_not_for_the_autoencoder(tool: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.lora\.rank=2 is not for the autoencoder: leave it out"):
        run_config(tool, tmp_path, init_from="x", lora=LoRAConfig(rank=2))


def stop_at(step: int, function: Callable[..., None]) -> Callable[..., None]:
    """``function`` until it is called for ``step``, which is as if the user pressed Ctrl-C."""

    def stopping(engine: Any, config: Any, now: int) -> None:
        if now == step:
            raise KeyboardInterrupt
        function(engine, config, now)

    return stopping


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 16, 24, 3), (1, 9, 32, 32, 3), (3, 1, 16, 16, 3))
    return [torch.randint(256, shape, dtype=torch.uint8, generator=generator) for shape in shapes]


def test_latents_of_the_published_autoencoder_are_normalised(tool: ModuleType, tiny_vae: VideoVAE) -> None:
    state = {f"vae.{name}": tensor.detach() for name, tensor in tiny_vae.state_dict().items()}
    published = tool.averaged_vae(tiny_vae, state, batches(), torch.device("cpu")).float()
    codec = LatentCodec(published)
    latents = [codec.encode(to_float(batch)).transpose(0, 1).flatten(1) for batch in batches()]
    every = torch.cat(latents, dim=1)  # c n
    torch.testing.assert_close(every.mean(1), torch.zeros(4), atol=0.02, rtol=0)
    torch.testing.assert_close(every.std(1), torch.ones(4), atol=0.02, rtol=0)


def test_validation_scores_and_shows_what_comes_out(tool: ModuleType, tiny_vae: VideoVAE, tmp_path: Path) -> None:
    scores = tool.validate(
        LatentCodec(tiny_vae), {"world": batches()[:1], "real": batches()[1:]}, tmp_path / "sheet.png"
    )
    assert scores.keys() == {"world_psnr", "world_ssim", "real_psnr", "real_ssim"}
    for group in ("world", "real"):
        assert 0 < scores[f"{group}_psnr"] < 20  # random weights
        assert -1 <= scores[f"{group}_ssim"] < 0.5
    assert (tmp_path / "sheet.png").is_file()


def test_validation_is_of_clips_and_statistics_of_the_longest(tool: ModuleType, tmp_path: Path) -> None:
    config = run_config(tool, tmp_path).data
    held = tool.held_out(config, 0)
    assert held.keys() == {"world"}
    assert {batch.shape[1] for batch in held["world"]} == {5, 9}
    assert {batch.shape[1] for batch in tool.clips_as_trained(config, 0)} == {9}


class Patches(VideoVAE):
    """Latents are the colours of patches of 8x8 pixels: flipped frames have flipped latents."""

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        z = x[:, :, ::4, ::8, ::8]
        return AutoencoderKLOutput(DiagonalGaussianDistribution(torch.cat([z, torch.full_like(z, -60.0)], dim=1)))

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        frames = z.repeat_interleave(8, 3).repeat_interleave(8, 4).repeat_interleave(4, 2)[:, :, 3:]
        return DecoderOutput(sample=frames)


def test_equivariance_transforms_frames_and_latents_alike(tool: ModuleType) -> None:
    """An autoencoder that is equivariant reconstructs still clips of coloured patches however they are flipped."""
    vae = Patches(3, encoder_width=4, encoder_depth=0, decoder_width=4, decoder_depth=0, thin_width=2, thin_depth=0)
    colours = torch.rand(2, 3, 1, 4, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    frames = colours.repeat_interleave(8, 3).repeat_interleave(8, 4).expand(-1, -1, 5, -1, -1)
    errors = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        _, terms = tool.Autoencode(vae, LossWeights(equivariance=1.0))(frames, generator, None)
        errors.append(float(terms["l1"]))
    exact = sum(error < 1e-5 for error in errors)  # where the scale is 1, whatever the flips
    assert 7 <= exact <= 20
    _, terms = tool.Autoencode(vae, LossWeights(equivariance=0.0))(frames, torch.Generator().manual_seed(0), None)
    assert terms["l1"] < 1e-5


def test_what_is_to_be_reached_is_not_rounded(
    tool: ModuleType, tiny_vae: VideoVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 weights take bf16 frames, but the loss is that of the frames as they were."""
    frames, seen = torch.rand(1, 3, 5, 16, 16) * 2 - 1, []
    monkeypatch.setattr(tool, "reconstruction_loss", lambda prediction, target, *_: seen.append(target))
    tool.Autoencode(tiny_vae.bfloat16(), tool.LossWeights())(frames, torch.Generator().manual_seed(0), None)
    assert torch.equal(seen[0], frames)
    assert not torch.equal(frames.bfloat16().float(), frames)


def test_the_frame_rule_and_the_grid_are_those_of_the_model(tool: ModuleType, tmp_path: Path) -> None:
    config = run_config(tool, tmp_path)
    deeper = replace(config.model, time_factor=8, space_factor=16)
    with pytest.raises(ValueError, match=r"data.batches has \[2, 5, 16, 24\]: frames must be 1 \+ 8k"):
        replace(config, model=deeper)


def test_another_kind_of_autoencoder_is_no_start(tool: ModuleType, tmp_path: Path) -> None:
    from diffusers import AutoencoderKLWan

    wan = AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    wan.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    wan.save_pretrained(tmp_path / "vae")
    config = run_config(tool, tmp_path, init_from=str(tmp_path))
    with pytest.raises(ValueError, match="holds a AutoencoderKLWan: this program trains a VideoVAE"):
        tool.build_vae(config)


def write_manifest(folder: Path, *splits: str) -> str:
    """Clips of 9 frames of 48x48, one of each split."""
    for split in splits:
        frames = torch.randint(256, (9, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        write_video(folder / f"{split}.mp4", frames, 8)
    rows = [f"{split}.mp4,,48,48,8,9,{split}" for split in splits]
    (folder / "clips.csv").write_text("\n".join(["path,text,width,height,fps,num_frames,split", *rows]))
    return str(folder / "clips.csv")


def test_the_world_need_not_hold_what_is_not_trained_on(tool: ModuleType, tmp_path: Path) -> None:
    small = CropConfig(world_sizes=[[32, 32]], manifest_sizes=[[48, 48]], manifest_frames=9, world_share=0.0, cache="")
    larger = replace(small, batches=[[1, 9, 48, 48]])
    seen = replace(larger, manifest=write_manifest(tmp_path, "train", "val"))
    assert tool.held_out(seen, 0).keys() == {"real"}
    both = replace(seen, batches=[[1, 9, 48, 48], [1, 5, 32, 32]])
    assert tool.held_out(replace(both, world_share=0.5), 0).keys() == {"real", "world"}
    unseen = replace(both, manifest=write_manifest(tmp_path, "train"))
    held = tool.held_out(unseen, 0)
    assert held.keys() == {"world"}
    assert {batch.shape[1:4] for batch in held["world"]} == {(5, 32, 32)}
    with pytest.raises(ValueError, match="no clip of the world has 9 frames of 48x48"):
        tool.held_out(replace(unseen, batches=larger.batches), 0)


def test_a_run_without_the_world_plots_what_it_validates_on(
    tool: ModuleType, one_rank: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(tool, tmp_path / "run", max_steps=1)
    real = {"manifest": write_manifest(tmp_path, "train", "val"), "manifest_sizes": [[48, 48]], "manifest_frames": 9}
    config = replace(config, data=replace(config.data, **real, world_share=0.0, batches=[[1, 5, 40, 40]]))
    plotted = []
    monkeypatch.setattr(tool.Progress, "plot", lambda progress, *names: plotted.append(names))
    tool.train(config, tool.build_vae(config), Stop())
    assert plotted == [("train/loss", "validation/real_psnr")]


def test_a_file_in_place_of_the_run_is_one_line(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["train_vae.py", "--config", "vae_tiny.yaml", f"run_dir={tmp_path / 'run'}"])
    assert tool.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train_vae.py: run_dir={tmp_path / 'run'}: ") and line.endswith("is a file: give a folder")
