"""The transformer over packs: samples do not see each other, and only differences of time count."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor

from video_dit import VideoDiT
from video_dit.tokens import Segments, grid_coords, latent_times, per_token

CLIPS = [(3, 4, 4), (1, 2, 6), (5, 6, 2), (2, 4, 8), (4, 2, 2)]  # latent frames, height, width
PROMPT_LENGTHS = [7, 1, 12, 3, 5]


def sample(number: int) -> dict[str, Any]:
    """Inputs of one clip alone, with a level for each latent frame."""
    t, h, w = CLIPS[number]
    g = torch.Generator().manual_seed(number)
    starts_clip = number % 2 == 0
    one_frame = torch.zeros(t, dtype=torch.bool)
    one_frame[0] = starts_clip
    n, m = t * h * w // 4, PROMPT_LENGTHS[number]
    return {
        "hidden_states": torch.randn(n, 16, generator=g),
        "levels": torch.rand(t, generator=g),
        "level_index": per_token(torch.arange(t), h, w, 2),
        "coords": grid_coords(latent_times(t, 8.0 + number, 4, starts_clip), h, w, 2),
        "one_frame": per_token(one_frame, h, w, 2),
        "segments": Segments.from_lengths([n]),
        "prompt_embeds": torch.randn(m, 16, generator=g),
        "prompt_segments": Segments.from_lengths([m]),
    }


def pack(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Several samples end to end."""
    offsets = torch.tensor([0, *(len(s["levels"]) for s in samples)]).cumsum(0).tolist()
    joined = {name: torch.cat([s[name] for s in samples]) for name in ("hidden_states", "levels", "coords")}
    return joined | {
        "level_index": torch.cat([s["level_index"] + o for s, o in zip(samples, offsets, strict=False)]),
        "one_frame": torch.cat([s["one_frame"] for s in samples]),
        "segments": Segments.from_lengths([len(s["hidden_states"]) for s in samples]),
        "prompt_embeds": torch.cat([s["prompt_embeds"] for s in samples]),
        "prompt_segments": Segments.from_lengths([len(s["prompt_embeds"]) for s in samples]),
    }


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def test_packed_equals_one_by_one(tiny_dit: VideoDiT) -> None:
    samples = [sample(n) for n in range(5)]
    alone = torch.cat([tiny_dit(**s) for s in samples])
    assert alone.std() > 0.3
    assert error(tiny_dit(**pack(samples)), alone) <= 1e-5


@torch.no_grad()
def test_equal_samples_are_a_dense_batch_to_the_same_end(tiny_dit: VideoDiT) -> None:
    samples = [sample(0), {**sample(0), "hidden_states": torch.randn(12, 16)}]
    assert len(set(pack(samples)["segments"].lengths)) == 1
    assert error(tiny_dit(**pack(samples)), torch.cat([tiny_dit(**s) for s in samples])) <= 1e-5


@torch.no_grad()
def test_other_order_of_samples_other_order_of_outputs(tiny_dit: VideoDiT) -> None:
    samples = [sample(n) for n in range(5)]
    order = [3, 0, 4, 2, 1]
    lengths = [len(s["hidden_states"]) for s in samples]
    parts = tiny_dit(**pack(samples)).split(lengths)
    permuted = tiny_dit(**pack([samples[n] for n in order]))
    assert error(permuted, torch.cat([parts[n] for n in order])) <= 1e-5


@torch.no_grad()
def test_only_differences_of_time_count(tiny_dit: VideoDiT) -> None:
    inputs = pack([sample(n) for n in range(5)])
    out = tiny_dit(**inputs)
    later = {**inputs, "coords": inputs["coords"] + torch.tensor([3.7, 0, 0])}
    assert error(tiny_dit(**later), out) <= 1e-5
    slower = {**inputs, "coords": inputs["coords"] * torch.tensor([2.0, 1, 1])}
    assert error(tiny_dit(**slower), out) > 1e-2


@torch.no_grad()
def test_padded_levels_change_nothing(tiny_dit: VideoDiT) -> None:
    inputs = pack([sample(n) for n in range(5)])
    padded = {**inputs, "levels": torch.nn.functional.pad(inputs["levels"], (0, 17))}
    assert error(tiny_dit(**padded), tiny_dit(**inputs)) <= 1e-6


@torch.no_grad()
@pytest.mark.parametrize("name", ["hidden_states", "levels", "coords", "one_frame", "prompt_embeds"])
def test_every_input_counts_and_only_in_its_own_sample(tiny_dit: VideoDiT, name: str) -> None:
    samples = [sample(n) for n in range(3)]
    before = tiny_dit(**pack(samples)).split([12, 3, 15])
    value = samples[2][name]
    samples[2] = {**samples[2], name: ~value if value.dtype == torch.bool else value * 0.5 + 0.1}
    after = tiny_dit(**pack(samples)).split([12, 3, 15])
    assert error(after[2], before[2]) > 1e-3
    assert error(after[0], before[0]) <= 1e-6
    assert error(after[1], before[1]) <= 1e-6


def test_a_new_model_gives_zeros_and_all_of_it_learns() -> None:
    model = VideoDiT(in_channels=4, hidden_size=32, num_layers=1, num_heads=2, text_dim=16)
    inputs = pack([sample(n) for n in range(3)])
    assert not model(**inputs).any()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any() and "bias" not in name:
                parameter.normal_(std=0.1)
    model(**inputs).square().mean().backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_saved_and_loaded(tiny_dit: VideoDiT, tmp_path: Path) -> None:
    tiny_dit.save_pretrained(tmp_path)
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".json", ".safetensors"]
    loaded = VideoDiT.from_pretrained(tmp_path)
    assert loaded.config.sample_sizes == [[32, 32], [16, 48]]
    with torch.no_grad():
        assert torch.equal(loaded(**sample(2)), tiny_dit(**sample(2)))


def test_sixteen_bits_keep_the_dtype_of_the_tokens(tiny_dit: VideoDiT) -> None:
    inputs = sample(0)
    with torch.no_grad():
        exact = tiny_dit(**inputs)
        rough = tiny_dit.bfloat16()(**inputs)
    assert rough.dtype == torch.float32
    assert float((rough - exact).std() / exact.std()) < 0.1


@pytest.mark.parametrize(("width", "heads"), [(30, 4), (12, 4)])
def test_width_must_fit_the_heads(width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=rf"model.hidden_size={width} must be .* model.num_heads={heads}"):
        VideoDiT(hidden_size=width, num_heads=heads)


def test_checkpointing_leaves_gradients_as_they_are(tiny_dit: VideoDiT) -> None:
    runs = []
    calls: list[int] = []
    tiny_dit.blocks[1].register_forward_pre_hook(lambda module, given: calls.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            tiny_dit.enable_gradient_checkpointing()
        inputs = pack([sample(n) for n in range(5)])
        text = inputs["prompt_embeds"] = inputs["prompt_embeds"].requires_grad_()
        tiny_dit.zero_grad()
        tiny_dit(**inputs).square().sum().backward()
        runs.append({"text": text.grad, **{name: p.grad.clone() for name, p in tiny_dit.named_parameters()}})
    assert len(calls) == 3  # the second time for the way back too
    for name, gradient in runs[0].items():
        assert torch.equal(runs[1][name], gradient), name


@torch.no_grad()
def test_weights_can_wait_elsewhere_until_their_module_runs(tiny_dit: VideoDiT) -> None:
    """As diffusers' and accelerate's offload have them: hooks on modules bring them."""
    given = pack([sample(n) for n in range(3)])
    expected = tiny_dit(**given)
    cpu_offload(tiny_dit, execution_device=torch.device("cpu"))
    assert tiny_dit.blocks[0].attn.norm_q.weight.is_meta  # type: ignore[union-attr]
    assert torch.equal(tiny_dit(**given), expected)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "blocks"), [("leaf_level", None), ("block_level", 1)])
def test_weights_can_wait_on_disk_by_groups(tiny_dit: VideoDiT, kind: str, blocks: int | None, tmp_path: Path) -> None:
    """Then nothing is left of them in memory but where a group's own module runs."""
    given = pack([sample(n) for n in range(3)])
    expected = tiny_dit(**given)
    cpu = torch.device("cpu")
    tiny_dit.enable_group_offload(cpu, cpu, kind, num_blocks_per_group=blocks, offload_to_disk_path=str(tmp_path))
    texts = tiny_dit.text_keys_values(given["prompt_embeds"])
    assert torch.equal(tiny_dit(**given | {"prompt_embeds": texts}), expected)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_text_is_projected_once_for_all_calls(tiny_dit: VideoDiT, dtype: torch.dtype) -> None:
    calls: list[int] = []
    for block in tiny_dit.to(dtype).blocks:
        for layer in (block.cross_attn.to_k, block.cross_attn.to_v, block.cross_attn.norm_k):  # type: ignore[union-attr]
            layer.register_forward_pre_hook(lambda module, given: calls.append(1))  # type: ignore[union-attr]
    given = pack([sample(n) for n in range(3)])
    expected = tiny_dit(**given)
    assert len(calls) == 6
    texts = tiny_dit.text_keys_values(given["prompt_embeds"])
    assert len(calls) == 12
    for _ in range(3):
        assert torch.equal(tiny_dit(**given | {"prompt_embeds": texts}), expected)
    assert len(calls) == 12
    assert [tuple(x.shape) for pair in texts for x in pair] == 4 * [(20, 2, 16)]
    others = tiny_dit.text_keys_values(given["prompt_embeds"] + 1)
    assert error(tiny_dit(**given | {"prompt_embeds": others}), expected) > 1e-2


@torch.no_grad()
def test_keys_and_values_bring_the_weights_they_need(tiny_dit: VideoDiT) -> None:
    """Where the whole model waits elsewhere, as in ``enable_model_cpu_offload``."""
    embeds = sample(0)["prompt_embeds"]
    expected = tiny_dit.text_keys_values(embeds)
    brought: list[VideoDiT] = []

    class Bring(ModelHook):
        def pre_forward(self, module: VideoDiT, *given: Any, **more: Any) -> Any:
            brought.append(module)
            return given, more

    add_hook_to_module(tiny_dit, Bring())
    found = tiny_dit.text_keys_values(embeds)
    assert brought == [tiny_dit]
    assert all(
        torch.equal(a, b) for one, other in zip(found, expected, strict=True) for a, b in zip(one, other, strict=True)
    )


@torch.no_grad()
def test_fp64_is_more_exact(tiny_dit: VideoDiT) -> None:
    given = pack([sample(n) for n in range(3)])
    short = tiny_dit(**given)
    exact = tiny_dit.double()(**given | {"hidden_states": given["hidden_states"].double()})
    assert exact.dtype == torch.float64
    assert 0 < error(exact, short) < 1e-4
