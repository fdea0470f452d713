"""The autoencoders that a benchmark compares: their size, what they cost, and which configs are refused."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vae3d.interop import decode_whole, encode_whole
from video_dit.evaluation.candidates import (
    Candidate,
    Rival,
    check_size,
    count_parameters,
    of_width,
    ours,
    profile,
    published,
    shrunk,
)


@pytest.fixture
def own(tmp_path: Path) -> Candidate:
    config = tmp_path / "vae_small.yaml"
    config.write_text("run_dir: runs/x\nmodel: {latent_channels: 4, encoder_width: 16, decoder_width: 24}\n")
    return ours(str(config))


def test_ours_is_what_the_config_says(own: Candidate) -> None:
    vae = own.build()
    assert own.name == "ours, vae_small"
    assert vae.config["encoder_width"] == 16
    assert vae.config["latents_std"] == [1.0] * 4


@pytest.mark.parametrize("rival", ["cogvideox", "ltx"])
def test_flops_a_pixel_do_not_depend_on_the_frame(own: Candidate, rival: Rival) -> None:
    for candidate in (own, published(rival)):
        small, large = profile(candidate, 17, 64, 64), profile(candidate, 17, 128, 192)
        assert small.decode_flops == pytest.approx(large.decode_flops, rel=1e-4)  # ours multiplies weights as well
        assert small.encode_flops == pytest.approx(large.encode_flops, rel=1e-9)


@pytest.mark.parametrize("rival", ["wan", "hunyuan"])
def test_only_attention_over_the_frame_costs_more_in_a_large_one(rival: Rival) -> None:
    small, large = (profile(published(rival), 17, side, side).decode_flops for side in (64, 192))
    assert small < large < 1.01 * small


def test_flops_counted_without_running_are_those_of_a_run(own: Candidate) -> None:
    counted, vae = profile(own, 9, 32, 48), own.build()
    with torch.no_grad(), FlopCounterMode(display=False) as run:
        frames = decode_whole(vae, torch.randn(counted.latent_shape))
    assert frames.shape == (1, 3, 9, 32, 48)
    assert run.get_total_flops() / (9 * 32 * 48) == pytest.approx(counted.decode_flops)


@pytest.mark.parametrize(
    ("rival", "millions", "codec"),
    [("wan", 126.9, "4x8x8 z16"), ("cogvideox", 215.6, "4x8x8 z16"), ("ltx", 419.2, "8x32x32 z128")],
)
def test_published_sizes_are_known(rival: Rival, millions: float, codec: str) -> None:
    found = profile(published(rival), 17, 64, 64)
    assert found.parameters / 1e6 == pytest.approx(millions, abs=0.1)
    assert found.codec == codec
    assert found.decode_flops > found.encode_flops > 500_000


@pytest.mark.parametrize("rival", get_args(Rival))
@pytest.mark.parametrize("parameters", [600_000, 27_000_000])
def test_a_shrunk_rival_has_about_as_many_parameters(rival: Rival, parameters: int) -> None:
    candidate = shrunk(rival, parameters)
    assert count_parameters(candidate) == pytest.approx(parameters, rel=0.15)
    nearest = abs(count_parameters(candidate) - parameters)
    assert all(abs(count_parameters(of_width(rival, width)) - parameters) >= nearest for width in (6, 32, 44))


@pytest.mark.parametrize("rival", get_args(Rival))
def test_the_smallest_rival_makes_frames(rival: Rival) -> None:
    vae = shrunk(rival, 1).build()
    with torch.no_grad():
        frames = decode_whole(vae, encode_whole(vae, torch.rand(1, 3, 9, 32, 32)))
    assert frames.shape == (1, 3, 9, 32, 32)
    assert frames.isfinite().all()


def test_weights_are_a_function_of_the_seed_alone(own: Candidate) -> None:
    before = torch.get_rng_state()
    first, again, other = (next(own.build(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_layout_in_16_bits_changes_no_number(own: Candidate) -> None:
    candidate = of_width("cogvideox", 4)
    vae, latents = candidate.build(dtype=torch.bfloat16), torch.randn(1, 16, 3, 4, 4, dtype=torch.bfloat16)
    with torch.no_grad():
        last = decode_whole(vae, latents)
        for module in vae.modules():
            if isinstance(module, nn.Conv3d):
                assert module.weight.is_contiguous(memory_format=torch.channels_last_3d)
                module.weight.data = module.weight.data.contiguous()
        torch.testing.assert_close(decode_whole(vae, latents), last, atol=0.05, rtol=0.05)
    assert own.build(dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_config_may_be_changed(tmp_path: Path) -> None:
    (tmp_path / "a b.yaml").write_text("model: {latent_channels: 4, encoder_width: 16, decoder_width: 24}\n")
    changed = ours(f"{tmp_path}/a b.yaml model.decoder_width=32 model.thin_depth=1")
    assert changed.name == "ours, a b decoder_width=32 thin_depth=1"
    assert changed.settings["decoder_width"] == 32
    assert changed.settings["encoder_width"] == 16
    with pytest.raises(ValueError, match=r"train\.lr=1 must be model\.key=value"):
        ours(f"{tmp_path}/a b.yaml train.lr=1")
    with pytest.raises(ValueError, match=r"model\.depth is unknown"):
        ours(f"{tmp_path}/a b.yaml model.depth=1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run_dir: x\n", "has no section model"),
        ("- 1\n", "has no section model"),
        ("model: {patch: 2}\n", "model.patch is unknown: use some of latent_channels"),
        ("model: {encoder_width: wide}\n", "--config"),
        ("model: {space_factor: 3}\n", "space_factor=3"),
        ("model: {latent_channels: many}\n", "--config .*: model: "),
        ("model: {latent_channels: null}\n", "--config .*: model: "),
        ("model: {ratio: -1}\n", "--config .*: model: ratio=-1"),
        ("model: {\n", "cannot be read"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        ours(str(tmp_path / "c.yaml"))


def test_ours_may_have_any_factors(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {encoder_width: 16, decoder_width: 24}\n")
    odd = ours(f"{tmp_path}/c.yaml model.space_factor=24 model.time_factor=6")
    assert profile(odd, 19, 48, 72).codec == "6x24x24 z8"


def test_a_config_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="no such file"):
        ours("nowhere.yaml")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((13, 64, 64), "--frames 13 must be 1 \\+ 8k for ltx, published: use 9 or 17"),
        ((17, 40, 64), "--size: height 40 must be a multiple of 32 for ltx, published: use 32 or 64"),
        ((17, 64, 16), "--size: width 16 must be a multiple of 32 for ltx, published: use 32 or 64"),
    ],
)
def test_lengths_and_sizes_that_are_refused(shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_size("ltx, published", *shape, 8, 32)
    with pytest.raises(ValueError, match=message):
        profile(published("ltx"), *shape)
