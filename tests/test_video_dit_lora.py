"""Adapters: they change nothing until trained, are saved and loaded whole, and refuse other models."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors.torch import load_file, save_file
from torch import Tensor

from video_dit import VideoDiT
from video_dit.engine import TrainConfig
from video_dit.lora import (
    LoRAConfig,
    add_lora,
    copy_adapter,
    fingerprint,
    load_lora,
    lora_facts,
    merge_lora,
    save_lora,
    without_adapter,
)
from video_dit.tokens import Segments

CONFIG = LoRAConfig(rank=3)


@pytest.fixture
def base(tiny_dit: VideoDiT) -> VideoDiT:
    """Of weights that bf16 holds, as released models have them."""
    return tiny_dit.bfloat16().float()


def like(model: VideoDiT) -> VideoDiT:
    """Another one of the same weights, without an adapter."""
    with torch.random.fork_rng(devices=[]):
        other = VideoDiT.from_config(model.config).eval()
    other.load_state_dict({n.replace(".base_layer.", "."): t for n, t in model.state_dict().items() if "lora" not in n})
    return other


@torch.no_grad()
def output(model: VideoDiT) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return model(
        torch.randn(12, 16, generator=generator),
        torch.tensor([0.2, 0.9]),
        torch.arange(12) % 2,
        torch.rand(12, 3, generator=generator),
        torch.zeros(12, dtype=torch.bool),
        Segments.from_lengths([8, 4]),
        torch.randn(5, 16, generator=generator),
        Segments.from_lengths([2, 3]),
    )


def adapted(base: VideoDiT, config: LoRAConfig = CONFIG) -> VideoDiT:
    """A copy whose adapter is as if it had been trained."""
    model = like(base)
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        add_lora(model, config)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = (0.3 * torch.randn(parameter.shape, generator=generator)).bfloat16().float()
    return model


def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(base: VideoDiT) -> None:
    model = like(base)
    add_lora(model, CONFIG)
    assert torch.equal(output(model), output(base))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    layers = 2 * (4 + 4 + 2)  # of two blocks: self-attention, cross-attention, feed-forward
    assert len(trained) == 2 * layers
    assert all(".lora_" in name and name.startswith("blocks.") for name in trained)
    assert {tuple(p.shape) for p in model.parameters() if p.requires_grad} >= {(3, 32), (32, 3), (128, 3), (3, 16)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [CONFIG, LoRAConfig(rank=2, alpha=5.0, targets=["to_v", "level_embed.up"])])
def test_what_is_loaded_is_what_was_saved(
    base: VideoDiT, tmp_path: Path, dtype: torch.dtype, config: LoRAConfig
) -> None:
    model, fresh = adapted(base, config).to(dtype), like(base).to(dtype)
    before = output(fresh)
    file = save_lora(model, tmp_path, "a-model")
    for number, path in enumerate((tmp_path, file)):
        other = like(base).to(dtype)
        load_lora(other, str(path))
        assert torch.equal(output(other), output(model)), number
    assert not torch.equal(output(model), before)
    assert file.stat().st_size < 60_000


@pytest.mark.parametrize("alpha", [0.0, 5.0])
def test_merged_it_gives_what_peft_gives_without_peft(
    base: VideoDiT, tmp_path: Path, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(base, replace(CONFIG, alpha=alpha))
    save_lora(model, tmp_path, "a-model", {"steps": "4-8"})
    before, wanted = output(base), output(model)
    monkeypatch.setitem(sys.modules, "peft", None)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        other = like(base).to(dtype)
        merge_lora(other, tmp_path)
        assert not any(".lora_" in name for name in other.state_dict())
        assert {parameter.dtype for parameter in other.parameters()} == {dtype}
        assert (output(other) - wanted).norm() < bound * (wanted - before).norm()
    assert lora_facts(tmp_path)["steps"] == "4-8"


@pytest.mark.parametrize("setting", ["use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern"])
def test_what_is_more_than_a_product_is_not_merged(base: VideoDiT, tmp_path: Path, setting: str) -> None:
    file = save_lora(adapted(base), tmp_path, "a-model")
    told = json.loads(lora_facts(file)[LORA_ADAPTER_METADATA_KEY]) | {f"transformer.{setting}": {"to_q": 2}}
    save_file(load_file(file), file, metadata={LORA_ADAPTER_METADATA_KEY: json.dumps(told)})
    before = output(base)
    reason = rf"LoRA {tmp_path} has {setting}=.* and cannot be merged: train one without it"
    if setting == "rank_pattern":  # the ranks are those of the tensors
        merge_lora(base, tmp_path)
        assert not torch.equal(output(base), before)
        return
    with pytest.raises(ValueError, match=reason):
        merge_lora(base, tmp_path)
    assert torch.equal(output(base), before)


def test_without_its_adapter_a_model_is_as_it_was(base: VideoDiT) -> None:
    model = adapted(base)
    changed = output(model)
    with without_adapter(model):
        assert torch.equal(output(model), output(base))
    assert torch.equal(output(model), changed)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if "lora" in n
    }
    with without_adapter(base):
        assert not torch.equal(output(base), changed)


def test_alpha_over_rank_is_the_strength(base: VideoDiT) -> None:
    config = LoRAConfig(rank=2, targets=["proj_out"])
    models = [adapted(base, replace(config, alpha=alpha)) for alpha in (0.0, 2.0, 6.0)]
    changes = [output(model) - output(base) for model in models]
    assert torch.equal(changes[0], changes[1])
    assert torch.allclose(changes[2], 3 * changes[1], atol=1e-4)


@torch.no_grad()
def test_it_changes_the_keys_and_values_of_the_text(base: VideoDiT) -> None:
    embeds = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    plain, changed = (model.text_keys_values(embeds) for model in (base, adapted(base)))
    assert all(
        not torch.allclose(a, b, atol=1e-2)
        for x, y in zip(plain, changed, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    other = adapted(base)
    other.disable_adapters()
    assert torch.equal(other.text_keys_values(embeds)[1][0], plain[1][0])


def test_diffusers_reads_it_as_well(base: VideoDiT, tmp_path: Path) -> None:
    model, other = adapted(base), like(base)
    save_lora(model, tmp_path, "a-model")
    other.load_lora_adapter(tmp_path, use_safetensors=True)
    assert torch.equal(output(other), output(model))


def test_a_copy_takes_the_weights_of_an_adapter(base: VideoDiT) -> None:
    model, other, plain = adapted(base), like(base), like(base)
    copy_adapter(model, other)
    other.load_state_dict(model.state_dict())
    assert torch.equal(output(other), output(model))
    copy_adapter(base, plain)
    assert plain.state_dict().keys() == base.state_dict().keys()
    assert all(p.requires_grad for p in plain.parameters())


def test_a_fingerprint_is_of_the_weights_alone(base: VideoDiT) -> None:
    assert fingerprint(base) == fingerprint(adapted(base)) == fingerprint(like(base).bfloat16())
    with torch.random.fork_rng(devices=[]):
        fine = VideoDiT.from_config(base.config)  # of weights that bf16 does not hold
    assert fingerprint(fine) == fingerprint(like(fine).bfloat16()) != fingerprint(base)
    other = like(base)
    other.blocks[1].ff.down.bias.data[0] += 0.1
    assert fingerprint(other) != fingerprint(base)


def test_other_models_are_refused(base: VideoDiT, tmp_path: Path) -> None:
    save_lora(adapted(base), tmp_path, "runs/a/model")
    other = like(base)
    other.proj_out.weight.data.neg_()
    before = output(other)
    for use in (load_lora, merge_lora):
        reason = f"LoRA {tmp_path} was trained on another model: use --model runs/a/model$"
        with pytest.raises(ValueError, match=reason):
            use(other, tmp_path)
    assert torch.equal(output(other), before)
    assert not any(".lora_" in name for name in other.state_dict())


@pytest.mark.parametrize(
    "sizes", [{"A": (2, 31), "B": (32, 2)}, {"A": (2, 32), "B": (31, 2)}, {"A": (2, 32), "B": (32, 2)}]
)
def test_adapters_of_other_programs_must_fit(base: VideoDiT, tmp_path: Path, sizes: dict) -> None:
    layer = "attn.to_q" if 31 in (*sizes["A"], *sizes["B"]) else "attn.to_nothing"
    names = {f"transformer.blocks.0.{layer}.lora_{half}.weight": torch.zeros(size) for half, size in sizes.items()}
    save_file(names, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=f"does not fit this model: blocks.0.{layer} has other sizes"):
        load_lora(base, tmp_path / "other.safetensors")
    right = {name.replace(layer, "attn.to_q"): torch.ones(2, 32) for name in names}
    right |= {name: tensor.T.contiguous() for name, tensor in right.items() if "lora_B" in name}
    save_file(right, tmp_path / "right.safetensors")
    before = output(base)
    load_lora(base, tmp_path / "right.safetensors")
    assert not torch.equal(output(base), before)


def test_files_that_are_no_adapters_are_refused(base: VideoDiT, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "none.safetensors")
    for path, reason in (
        (tmp_path / "gone", "no such file"),
        (tmp_path, "no such file; give the folder lora/ of a run"),
        (tmp_path / "text", "is no safetensors file"),
        (tmp_path / "none.safetensors", "holds no adapter of a transformer"),
    ):
        with pytest.raises(ValueError, match=reason) as refusal:
            load_lora(base, path)
        assert "\n" not in str(refusal.value)
        assert str(path) in str(refusal.value)


def test_peft_is_asked_for_only_where_it_is_needed(
    base: VideoDiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    LoRAConfig()
    with pytest.raises(ValueError, match=r"train.lora.rank=4 needs the package peft: pip install peft"):
        LoRAConfig(rank=4)
    with pytest.raises(ValueError, match="needs the package peft"):
        load_lora(base, str(tmp_path))


def test_settings_that_make_no_sense_are_refused(base: VideoDiT) -> None:
    for settings, reason in (({"rank": -1}, "lora.rank=-1"), ({"rank": 1, "alpha": -1.0}, "lora.alpha=-1.0")):
        with pytest.raises(ValueError, match=f"train.{reason} must be 0 or more"):
            LoRAConfig(**settings)
    with pytest.raises(ValueError, match="at least one layer"):
        LoRAConfig(rank=1, targets=[])
    with pytest.raises(ValueError, match=r"train.lora.rank=3 needs a model to adapt: set train.init_from"):
        TrainConfig(lora=CONFIG)
    with pytest.raises(ValueError, match=r"train.lora.targets has to_x, which ends no name: use some of .*to_q"):
        add_lora(base, LoRAConfig(rank=1, targets=["to_q", "to_x"]))
