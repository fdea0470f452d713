"""The model's own guess of what is known, in place of the truth."""

from dataclasses import replace

import pytest
import tiny_denoiser
import torch
from torch import Tensor

from video_dit.batch import Pack
from video_dit.draft import LEVEL_MAX, draw_draft, redrafted
from video_dit.noise import NoiseConfig, add_noise, path_alphas_cumprod, to_sample
from video_dit.noised import NoisedTokens, noised_tokens
from video_dit.text import encode_tokens

NOISES = [
    NoiseConfig(),
    NoiseConfig(path="vp", prediction="v_prediction", schedule="cosine"),
    NoiseConfig(path="vp", prediction="sample"),
]
KNOWN = torch.tensor([True] * 4 + [False] * 8)
MADE = torch.tensor([False] * 4 + [True] * 6 + [False] * 2)  # the last two are a keyframe's
LEVELS = torch.tensor([0.05] * 4 + [0.7] * 6 + [0.02] * 2)
CLEAN, DRAWN, OUTPUT = torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0))


def draft(seed: int, share: float = 1.0, noise: NoiseConfig = NOISES[0], known: Tensor = KNOWN) -> NoisedTokens:
    generator = torch.Generator().manual_seed(seed)
    return draw_draft(CLEAN, LEVELS, known, MADE, share, noise, generator)


def levels(of: NoisedTokens | Pack) -> Tensor:
    return of.levels[of.level_index]


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.prediction)
def test_known_tokens_are_the_guess_at_their_level_and_no_others_change(noise: NoiseConfig) -> None:
    asked, path = draft(3, noise=noise), path_alphas_cumprod(noise)
    trained = noised_tokens(CLEAN, DRAWN, LEVELS, torch.ones(12), noise)
    seen = redrafted(trained.hidden_states, asked, OUTPUT)
    guess = to_sample(noise.prediction, OUTPUT, asked.hidden_states, levels(asked)[:, None], path)
    expected = add_noise(guess, DRAWN, LEVELS[:, None], path)
    assert torch.allclose(seen[KNOWN], expected[KNOWN], atol=1e-5)
    assert not torch.allclose(seen[KNOWN], trained.hidden_states[KNOWN], atol=1e-2)
    assert torch.equal(seen[~KNOWN], trained.hidden_states[~KNOWN])
    assert torch.equal(redrafted(trained.hidden_states, asked, asked.target), trained.hidden_states)


def test_what_is_made_is_not_told_when_the_draft_is_asked_for() -> None:
    """And a keyframe is as it is."""
    found = set()
    for seed in range(20):
        asked = levels(draft(seed))
        assert (asked[MADE] == 1).all()
        assert len(asked[KNOWN].unique()) == 1
        assert torch.equal(asked[-2:], LEVELS[-2:])
        found.add(float(asked[0]))
    assert len(found) == 20
    assert min(found) < 0.2 * LEVEL_MAX
    assert 0.8 * LEVEL_MAX < max(found) < LEVEL_MAX


def test_as_many_are_drafted_as_asked_for() -> None:
    drafted = [bool(draft(seed, share=0.3).weight.any()) for seed in range(400)]
    assert sum(drafted) / 400 == pytest.approx(0.3, abs=0.07)
    for seed, one in enumerate(drafted):
        if not one:
            assert torch.equal(levels(draft(seed, share=0.3)), LEVELS)
    assert not any(draft(seed, known=torch.zeros_like(KNOWN)).weight.any() for seed in range(20))


def test_a_pack_is_trained_on_its_draft() -> None:
    """The loss is that of the pack with the guess in it, and no gradient comes by way of the guess."""
    module = tiny_denoiser.denoiser()
    pack = next(p for p in map(tiny_denoiser.pack, range(20)) if p.draft is not None and p.draft.weight.any())
    asked = pack.draft
    assert asked is not None
    text = encode_tokens(module.text_encoder, pack.prompts)
    with torch.no_grad():
        output = module.transformer(
            *(asked.hidden_states, asked.levels, asked.level_index, pack.coords, pack.one_frame, pack.segments),
            *(text, pack.prompts.segments),
        )
    given = replace(pack, hidden_states=redrafted(pack.hidden_states, asked, output), draft=None)
    with_draft, expected, without = module(pack), module(given), module(replace(pack, draft=None))
    assert torch.equal(with_draft, expected)
    assert not torch.allclose(with_draft, without, rtol=1e-3)
    weights = list(module.transformer.parameters())
    gradients = [torch.autograd.grad(errors.sum(), weights) for errors in (with_draft, expected)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
