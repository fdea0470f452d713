"""What is shipped in checkpoints/: the autoencoder, whose latents are frozen."""

from pathlib import Path

import pytest

from vae3d import LatentCodec
from video_dit.evaluation.vae import VAEOptions, evaluate_vae

MODEL = Path(__file__).parents[1] / "checkpoints" / "sora-tiny"


def test_latents_of_the_shipped_autoencoder_are_frozen() -> None:
    """Transformers, the judge and people's caches are made for them. A better decoder does not change them."""
    codec = LatentCodec.from_pretrained(MODEL)
    assert codec.fingerprint() == "95bd600f8e79ee58"
    assert sum(parameter.numel() for parameter in codec.vae.parameters()) <= 3_000_000


def test_the_shipped_autoencoder_reaches_what_is_asked_of_it() -> None:
    options = VAEOptions(
        model=MODEL,
        manifest=None,
        split="test",
        clips=16,
        frames=17,
        short_side=256,
        world_size=128,
        frame_rate=None,
        dtype="auto",
        device="cpu",
    )
    found, _ = evaluate_vae(options, lambda line: None, pytest.fail)
    figures = found["mean"]["world"]
    assert figures["psnr"] >= 36
    for axis in ("time", "space"):
        assert 1 / 1.2 <= figures[f"blocking_in_{axis}"] <= 1.2
