"""Text encoder and transformer through the engine: two ranks as one, each ZeRO stage as plain PyTorch, the folder that
the average makes; the error of a token; and what train.init_from must agree with."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_denoiser
import torch
from tiny_engine import ZERO_STAGES, launch
from torch import Tensor

from vae3d import LatentCodec, VideoVAE
from video_dit import VideoPipeline
from video_dit.checkpoint import resume, save_checkpoint
from video_dit.config import RunConfig, load_config
from video_dit.denoiser import Denoiser, averaged_pipeline, checkpoint_facts, load_denoiser
from video_dit.distillation import DistillConfig
from video_dit.ema import EMA
from video_dit.engine import TrainConfig, initialize, learning_rate
from video_dit.layers import fast_dtype
from video_dit.lora import LoRAConfig, add_lora
from video_dit.noise import NoiseConfig
from video_dit.schedulers import model_scheduler
from video_dit.slices import read_slices
from video_dit.text import TextConfig, byte_t5

Load = Callable[..., Denoiser]

CONFIG = TrainConfig(lr=1e-3, warmup_steps=3, max_grad_norm=0.5)
IN_FP32, IN_BF16 = 5, 20  # steps

PROGRAM = """
import json
from dataclasses import replace
from pathlib import Path

import tiny_denoiser
import torch
from deepspeed import comm as dist
from test_video_dit_denoiser import CONFIG, IN_BF16, IN_FP32

from video_dit.checkpoint import save_checkpoint
from video_dit.denoiser import averaged_pipeline
from video_dit.ema import EMA
from video_dit.engine import initialize, process_group
from video_dit.noise import NoiseConfig

with process_group():
    for stage, dtype, count in ((1, torch.float32, IN_FP32), *((s, torch.bfloat16, IN_BF16) for s in (1, 2, 3))):
        folder = Path(f"{dtype}-{stage}")
        config = replace(CONFIG, zero_stage=stage)
        module = tiny_denoiser.denoiser()
        engine = initialize(module, config, dtype)
        ema = EMA(engine, config.ema_decay)
        losses = tiny_denoiser.steps(engine, config, 0, count)
        ema.update(engine, 0)
        saved = save_checkpoint(engine, ema, folder, count)
        pipe = averaged_pipeline(module, saved, tiny_denoiser.codec(), NoiseConfig(), engine.device)
        if dist.get_rank() == 0:
            (folder / "losses.json").write_text(json.dumps(losses))
            pipe.save_pretrained(folder / "model")
        dist.barrier()
"""


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoiser")
    launch(PROGRAM, folder, 2)
    return folder


def sizes() -> dict[str, tuple[int, int]]:
    return {name: (0, p.numel()) for name, p in tiny_denoiser.denoiser().named_parameters()}


@pytest.mark.slow
def test_two_ranks_are_one(two_ranks: Path, one_rank: None, tmp_path: Path) -> None:
    """One rank takes both packs of a step in turn."""
    config = replace(CONFIG, accumulation=2)
    engine = initialize(tiny_denoiser.denoiser(), config, torch.float32)
    losses = tiny_denoiser.steps(engine, config, 0, IN_FP32)
    saved = save_checkpoint(engine, EMA(engine, 0.9), tmp_path, IN_FP32)
    assert losses == pytest.approx(json.loads((two_ranks / "torch.float32-1/losses.json").read_text()), rel=1e-4)
    ours = read_slices(saved, "weight", sizes())
    theirs = read_slices(two_ranks / f"torch.float32-1/checkpoints/step-{IN_FP32}", "weight", sizes())
    begun = {name: p.detach().flatten() for name, p in tiny_denoiser.denoiser().named_parameters()}
    for name, part in ours.items():
        assert (part - theirs[name]).abs().max() <= 1e-4, name
        assert not torch.equal(part, begun[name]), name


def plain(count: int) -> tuple[list[float], dict[str, Tensor]]:
    """bf16 weights, fp32 masters, AdamW of PyTorch over both packs of a step: the losses, and the masters."""
    module = tiny_denoiser.denoiser().bfloat16()
    masters = {name: p.detach().float().requires_grad_() for name, p in module.named_parameters()}
    groups = [[p for p in masters.values() if (p.ndim < 2) == vector] for vector in (False, True)]
    decays = (CONFIG.weight_decay, 0.0)
    optimizer = torch.optim.AdamW(
        [{"params": group, "weight_decay": decay} for group, decay in zip(groups, decays, strict=True)],
        betas=(0.9, 0.99),
    )
    losses = []
    for step in range(count):
        packs = [tiny_denoiser.pack(2 * step + number) for number in range(2)]
        elements = sum(pack.loss_elements for pack in packs)
        total = 0.0
        for pack in packs:
            module.zero_grad()
            error = module(pack).sum()
            (error * (2 / elements)).backward()  # as large as what each rank computes, in 16 bits
            total += error.item()
            for name, p in module.named_parameters():
                given = torch.zeros_like(masters[name]) if p.grad is None else p.grad.float() / 2
                masters[name].grad = given if pack is packs[0] else masters[name].grad + given
        torch.nn.utils.clip_grad_norm_(masters.values(), CONFIG.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(CONFIG, step)
        optimizer.step()
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(masters[name])
        losses.append(total / elements)
    return losses, {name: p.detach() for name, p in masters.items()}


@pytest.mark.slow
@pytest.mark.skipif(fast_dtype(torch.device("cpu")) != torch.bfloat16, reason="this CPU does not compute in bf16")
@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_two_ranks_in_each_stage_are_plain_pytorch(two_ranks: Path, stage: int) -> None:
    losses, masters = plain(IN_BF16)
    folder = two_ranks / f"torch.bfloat16-{stage}"
    assert json.loads((folder / "losses.json").read_text()) == pytest.approx(losses, rel=1e-3)
    found = read_slices(folder / f"checkpoints/step-{IN_BF16}", "weight", sizes())
    for name, part in found.items():
        begun = tiny_denoiser.denoiser().get_parameter(name).detach().bfloat16().float().flatten()
        moved, off = (part - begun).abs().mean(), (part - masters[name].flatten()).abs().mean()
        assert off <= 0.05 * moved, name
        assert moved > 0, name


@pytest.mark.slow
@pytest.mark.parametrize("stage", ZERO_STAGES)
def test_a_folder_of_the_average_is_made_in_each_stage(two_ranks: Path, stage: int) -> None:
    """Its weights are the average that both ranks saved slices of, in bf16."""
    folder = two_ranks / f"torch.bfloat16-{stage}"
    pipe = VideoPipeline.from_pretrained(folder / "model")
    average = read_slices(folder / f"checkpoints/step-{IN_BF16}", "ema", sizes())
    parts = {"transformer": pipe.transformer, "text_encoder": pipe.text_encoder}
    for name, expected in average.items():
        part, _, rest = name.partition(".")
        assert torch.equal(parts[part].get_parameter(rest).flatten().bfloat16(), expected.bfloat16()), name


def test_the_error_is_of_made_tokens_alone() -> None:
    pack = next(p for p in map(tiny_denoiser.pack, range(20)) if 0 < p.made.sum() < len(p.made))
    module = tiny_denoiser.denoiser()
    errors = module(pack)
    assert errors.shape == pack.made.shape
    assert errors.dtype == torch.float32
    assert torch.equal(errors > 0, pack.made)
    errors.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.transformer.parameters())
    assert module.text_encoder.shared.weight.grad.any()


def test_the_average_is_made_of_what_was_saved(one_rank: None, tmp_path: Path) -> None:
    module = tiny_denoiser.denoiser()
    engine = initialize(module, CONFIG)
    ema = EMA(engine, 0.5)
    tiny_denoiser.steps(engine, CONFIG, 0, 1)
    saved = save_checkpoint(engine, ema, tmp_path, 1)
    pipe = averaged_pipeline(module, saved, tiny_denoiser.codec(), NoiseConfig(), engine.device)
    name = "blocks.1.ff.down.weight"
    _, part = ema.slices[f"transformer.{name}"]
    assert torch.equal(pipe.transformer.get_parameter(name).flatten(), part.bfloat16())
    assert not torch.equal(module.transformer.get_parameter(name).flatten(), part.bfloat16())
    assert not pipe.transformer.training


def test_each_token_bears_loss_by_its_weight() -> None:
    pack, module = tiny_denoiser.pack(0), tiny_denoiser.denoiser()
    weight = torch.rand(len(pack.made), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(module(replace(pack, weight=weight)), weight * module(pack), rtol=1e-5)


@pytest.fixture
def load(tiny_pipe: VideoPipeline, tmp_path: Path) -> Load:
    """Read a model that was trained with these settings into a run with those."""

    def call(trained: NoiseConfig, *settings: str) -> Denoiser:
        parts = tiny_pipe.components | {"scheduler": model_scheduler(trained)}
        VideoPipeline(**parts).save_pretrained(tmp_path)
        sizes = ["model.hidden_size=32", "model.num_layers=2", "model.num_heads=2", "model.base_tokens=4"]
        text = [
            "text.encoder=''",
            "text.max_length=32",
            "text.width=16",
            "text.num_layers=1",
            "text.num_heads=2",
            "text.hidden=32",
        ]
        run = load_config(RunConfig, "sora_tiny.yaml", [*sizes, *text, f"train.init_from={tmp_path}", *settings])
        return load_denoiser(run, LatentCodec(tiny_pipe.vae), {})

    return call


DDPM = NoiseConfig(path="vp", prediction="epsilon")
VP = ["noise.path=vp", "noise.prediction=epsilon"]


def test_a_model_of_the_same_path_is_gone_on_with(load: Load, tiny_pipe: VideoPipeline) -> None:
    for trained, settings in ((NoiseConfig(), []), (DDPM, [*VP, "noise.weighting=min_snr"])):
        loaded = load(trained, *settings).transformer.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in tiny_pipe.transformer.state_dict().items())


@pytest.mark.parametrize(
    ("trained", "settings", "reason"),
    [
        (DDPM, [], "noise.path=straight is not that of train.init_from=.*: use noise.path=vp"),
        (NoiseConfig(), VP, "noise.path=vp is not that of train.init_from=.*: use noise.path=straight"),
        (DDPM, [*VP, "noise.schedule=cosine"], "noise.schedule=cosine is not .*: use noise.schedule=linear"),
        (DDPM, ["noise.path=vp", "noise.prediction=sample"], "noise.prediction=sample is not .*: use .*=epsilon"),
    ],
)
def test_a_model_of_another_path_is_refused(load: Load, trained: NoiseConfig, settings: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load(trained, *settings)


def test_what_is_frozen_is_told_by_its_weights(one_rank: None, tiny_vae: VideoVAE, tmp_path: Path) -> None:
    """An adapter does not resume on another base, on another text encoder or with another strength."""
    module, codec = tiny_denoiser.denoiser(), LatentCodec(tiny_vae)
    plain = RunConfig()
    config = replace(plain, train=TrainConfig(init_from="base", lora=LoRAConfig(rank=2)))
    always = checkpoint_facts(module, plain, codec)
    assert not any("init_from" in name or "text encoder" in name for name in always)
    module.text_encoder.requires_grad_(False)
    base = next(module.transformer.parameters())
    before = checkpoint_facts(module, config, codec)
    add_lora(module.transformer, config.train.lora)
    facts = checkpoint_facts(module, config, codec)
    assert facts == before
    assert checkpoint_facts(module, plain, codec).keys() - always == {"fingerprint of the frozen text encoder"}
    assert checkpoint_facts(module, with_lora(config, 2.0), codec) == facts
    engine = initialize(module, config.train)
    ema = EMA(engine, 0.5)
    save_checkpoint(engine, ema, tmp_path, 1, facts)
    assert resume(engine, ema, tmp_path, facts) == 1
    with pytest.raises(ValueError, match=r"train\.lora\.alpha=4\.0 is not that of .*: use train\.lora\.alpha=2\.0"):
        resume(engine, ema, tmp_path, checkpoint_facts(module, with_lora(config, 4.0), codec))
    with torch.no_grad():
        base += 1
    with pytest.raises(ValueError, match=r"the fingerprint of train\.init_from is .*: use the same again"):
        resume(engine, ema, tmp_path, checkpoint_facts(module, config, codec))
    with torch.no_grad():
        base -= 1
        next(module.text_encoder.parameters()).add_(1)
    with pytest.raises(ValueError, match=r"the fingerprint of the frozen text encoder is .*: use the same again"):
        resume(engine, ema, tmp_path, facts | checkpoint_facts(module, plain, codec))


def with_lora(config: RunConfig, alpha: float) -> RunConfig:
    return replace(config, train=replace(config.train, lora=LoRAConfig(rank=2, alpha=alpha)))


def test_no_run_goes_on_with_another_autoencoder_or_as_another_kind(
    one_rank: None, tiny_vae: VideoVAE, tmp_path: Path
) -> None:
    module, config = tiny_denoiser.denoiser(), RunConfig()
    engine = initialize(module, config.train)
    ema = EMA(engine, 0.5)
    save_checkpoint(engine, ema, tmp_path, 1, checkpoint_facts(module, config, LatentCodec(tiny_vae)))
    student = replace(
        config, train=TrainConfig(init_from="base", lora=LoRAConfig(rank=2)), distill=DistillConfig(steps=[4, 8])
    )
    turned = replace(config, model=replace(config.model, rope_theta=3.0))
    for other, key in ((student, "distill.steps"), (turned, "model.rope_theta")):
        with pytest.raises(ValueError, match=rf"{key}=.* is not that of .*, or another run_dir"):
            resume(engine, ema, tmp_path, checkpoint_facts(module, other, LatentCodec(tiny_vae)))
    with torch.no_grad():
        next(tiny_vae.parameters()).add_(1)
    with pytest.raises(ValueError, match=r"the fingerprint of vae\.path is .*: use the same again"):
        resume(engine, ema, tmp_path, checkpoint_facts(module, config, LatentCodec(tiny_vae)))


def test_a_frozen_text_encoder_is_that_of_the_model(load: Load, tmp_path: Path) -> None:
    loaded = load(NoiseConfig(), f"text.encoder={tmp_path}")
    assert not any(p.requires_grad for p in loaded.text_encoder.parameters())
    tokenizer, encoder = byte_t5(TextConfig(width=16, num_layers=1, num_heads=2, hidden=32))
    for part in (tokenizer, encoder):
        part.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"text.encoder=.*other is not that of train.init_from=.*: use text.encoder="):
        load(NoiseConfig(), f"text.encoder={tmp_path / 'other'}")
