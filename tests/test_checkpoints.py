"""What is shipped in checkpoints/: the autoencoder, whose latents are frozen."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from vae3d import LatentCodec

MODEL = Path(__file__).parents[1] / "checkpoints" / "sora-tiny"


def test_latents_of_the_shipped_autoencoder_are_frozen() -> None:
    """Transformers, the judge and people's caches are made for them. A better decoder does not change them."""
    codec = LatentCodec.from_pretrained(MODEL)
    assert codec.fingerprint() == "95bd600f8e79ee58"
    assert sum(parameter.numel() for parameter in codec.vae.parameters()) <= 3_000_000


def test_the_shipped_autoencoder_reaches_what_is_asked_of_it(
    load_tool: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    evaluate = load_tool("evaluate")
    evaluate.run_vae(evaluate.parse_arguments(["vae", "--dtype", "auto", "--json", str(tmp_path / "figures.json")]))
    figures = json.loads((tmp_path / "figures.json").read_text())["mean"]["world"]
    assert figures["psnr"] >= 36
    for axis in ("time", "space"):
        assert 1 / 1.2 <= figures[f"blocking_in_{axis}"] <= 1.2
