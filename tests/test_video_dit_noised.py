"""Tokens of several samples noised, and put end to end."""

import pytest
import torch

from video_dit.noise import NoiseConfig, path_alphas_cumprod, to_epsilon, to_sample
from video_dit.noised import LEVELS_MULTIPLE, NoisedTokens, end_to_end, noised_tokens

NOISES = [
    NoiseConfig(),
    NoiseConfig(path="vp", prediction="epsilon"),
    NoiseConfig(path="vp", prediction="v_prediction", schedule="cosine"),
    NoiseConfig(path="vp", prediction="sample"),
]


def sample(number: int, noise: NoiseConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, NoisedTokens]:
    g = torch.Generator().manual_seed(number)
    n = 3 + number
    clean, drawn = torch.randn(2, n, 8, generator=g)
    levels = torch.tensor([0.1, 0.25, 0.6])[torch.randint(3, (n,), generator=g)]
    return clean, drawn, levels, noised_tokens(clean, drawn, levels, torch.rand(n, generator=g), noise)


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.prediction)
def test_samples_keep_their_levels_weights_and_latents(noise: NoiseConfig) -> None:
    samples = [sample(number, noise) for number in range(12)]
    pack = end_to_end([one for *_, one in samples])
    clean, drawn, levels = (torch.cat(parts) for parts in zip(*(one[:3] for one in samples), strict=True))
    assert torch.equal(pack.levels[pack.level_index], levels)
    assert len(pack.levels) % LEVELS_MULTIPLE == 0
    assert torch.equal(pack.weight, torch.cat([one.weight for *_, one in samples]))
    seen = noise.prediction, pack.target, pack.hidden_states, levels[:, None], path_alphas_cumprod(noise)
    assert torch.allclose(to_sample(*seen), clean, atol=1e-4)
    assert torch.allclose(to_epsilon(*seen), drawn, atol=1e-4)
    moved = pack.to("meta")
    assert all(value.device.type == "meta" for value in vars(moved).values())
