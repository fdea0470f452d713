"""Train a text-to-video model: ``deepspeed train.py --config sora_small.yaml [section.key=value …]``.

Writes into ``run_dir``: ``model/`` (a diffusers folder with the averaged weights, for tools/generate.py),
``checkpoints/`` (the same command resumes from them), ``tensorboard/``, ``loss.png`` and ``samples/``. With
``--dry-run`` it writes nothing, but tells what the run would be trained on, compute and hold.
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from deepspeed import comm as dist
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.latents import TensorCache
from data.packing import LoadedPack, Packs, cost, imbalance, load_ahead, rank_positions
from data.seeding import keyed_generator
from data.shards import Shards
from data.sheet import write_contact_sheet
from vae3d import LatentCodec
from video_dit.batch import Pack, build_pack, encode_clip
from video_dit.config import RunConfig, check_start, command_line, load_config, save_config
from video_dit.ema import EMA
from video_dit.engine import (
    averaged_weights,
    checkpoint_folder,
    initialize,
    is_newer,
    process_group,
    replace_folder,
    resume,
    save_checkpoint,
    set_learning_rate,
)
from video_dit.footprint import footprint_lines
from video_dit.layers import fast_dtype
from video_dit.model import VideoDiT
from video_dit.pipeline import VideoPipeline, check_model_folder
from video_dit.preflight import data_report
from video_dit.progress import Progress
from video_dit.sources import check_text, clip_source, pack_plan, training_clips
from video_dit.text import encode_prompts, load_text_encoder


class Denoiser(nn.Module):
    """Text encoder and transformer as one module for DeepSpeed."""

    def __init__(
        self, transformer: VideoDiT, tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel
    ) -> None:
        super().__init__()
        self.transformer, self.tokenizer, self.text_encoder = transformer, tokenizer, text_encoder

    def forward(self, pack: Pack) -> Tensor:
        """Sum of the squared errors of the velocity over the elements that bear loss, fp32."""
        embeds, prompt_segments = encode_prompts(self.tokenizer, self.text_encoder, pack.prompts, pack.prompt_embeds)
        prediction = self.transformer(
            pack.hidden_states,
            pack.levels,
            pack.level_index,
            pack.coords,
            pack.one_frame,
            pack.segments,
            embeds,
            prompt_segments,
        )
        return ((prediction.float() - pack.target).square() * pack.made[:, None]).sum()


class PackFactory:
    """Turns what the loader gives into training packs; encodes clips the first time they are met."""

    def __init__(self, config: RunConfig, codec: LatentCodec, split: str, packs_per_step: int = 1) -> None:
        self.config, self.codec = config, codec
        folder = Path(config.data.cache) if config.data.cache else None
        self.cache = TensorCache(folder, space=codec.fingerprint())
        self.source = training_clips(config, codec) if split == "train" else clip_source(config, codec, split)
        self.plan = pack_plan(config, codec, self.source, packs_per_step)
        stored = self.source if isinstance(self.source, Shards) else self.cache
        self.packs = Packs(self.source, stored, self.plan)

    def build(self, loaded: LoadedPack, position: int) -> Pack:
        """The pack of one position; ValueError where none of the clips up to it can be read."""
        if not loaded.items:
            data = self.config.data
            where = f"data.latents={data.latents}" if data.latents else f"data.manifest={data.manifest}"
            raise ValueError(f"{where}: no clip tried so far can be read: mend it")
        views = []
        for item in loaded.items:
            encoded = item.encoded
            if encoded is None:
                assert item.clip is not None
                key = self.source.key(item.view.index)
                encoded = encode_clip(self.codec, item.clip, keyed_generator(key, "encode"))
                self.cache.put(key, encoded)
            views.append((item.view, encoded, item.text))
        model = self.config.model
        return build_pack(
            views,
            position,
            self.config.seed,
            self.codec.frame_rule[0],
            model.patch_size,
            model.base_tokens,
            self.config.context,
            self.config.noise,
        )


def build_denoiser(config: RunConfig, codec: LatentCodec) -> Denoiser:
    """Text encoder and transformer with random weights, or those of ``train.init_from``."""
    torch.manual_seed(config.seed)
    trained_on = {
        "sample_sizes": [list(size) for size in config.data.sizes],
        "sample_latent_frames": codec.num_latent_frames(config.data.window_frames),
        "frame_rate": config.data.frame_rates[0],
    }
    if config.train.init_from:
        return load_denoiser(config, codec, trained_on)
    tokenizer, text_encoder = load_text_encoder(config.text)
    transformer = VideoDiT(
        in_channels=codec.latent_channels,
        text_dim=text_encoder.config.hidden_size,
        **asdict(config.model),
        **trained_on,
    )
    return Denoiser(transformer, tokenizer, text_encoder)


def load_denoiser(config: RunConfig, codec: LatentCodec, trained_on: dict) -> Denoiser:
    """The weights of the model folder ``train.init_from``, to go on with.

    Raises:
        ValueError: it is no model folder, its autoencoder is another one, or ``model.*`` or ``text.*`` say otherwise.
    """
    folder = config.train.init_from
    check_model_folder(folder)
    pipe = VideoPipeline.from_pretrained(folder)
    if pipe.codec.fingerprint() != codec.fingerprint():
        raise ValueError(f"train.init_from={folder} has another autoencoder than vae.path: use vae.path={folder}")
    check_start(asdict(config.model), pipe.transformer.config, folder)
    pipe.transformer.register_to_config(**trained_on)
    if config.text.encoder:
        return Denoiser(pipe.transformer, pipe.tokenizer, pipe.text_encoder.requires_grad_(False).eval())
    tokenizer, text_encoder = load_text_encoder(config.text)
    try:
        text_encoder.load_state_dict(pipe.text_encoder.state_dict())
    except RuntimeError:  # another kind, or other sizes
        raise ValueError(
            f"train.init_from={folder} has another text encoder than text.* describes: "
            "set text.encoder to the name of a frozen one, or the sizes of a byte-level one"
        ) from None
    return Denoiser(pipe.transformer, tokenizer, text_encoder)


def averaged_pipeline(module: Denoiser, folder: Path, codec: LatentCodec, device: torch.device) -> VideoPipeline:
    """A pipeline with the averaged weights that a checkpoint holds, in bf16; frozen weights are the module's own."""
    transformer = VideoDiT.from_config(module.transformer.config)
    text_encoder = type(module.text_encoder)(module.text_encoder.config)
    copy = Denoiser(transformer, module.tokenizer, text_encoder)
    copy.load_state_dict(averaged_weights(module, folder), strict=False)
    copy.to(device=device, dtype=torch.bfloat16).eval()
    return VideoPipeline(
        transformer=transformer,
        vae=codec.vae,
        text_encoder=text_encoder,
        tokenizer=module.tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def global_sums(values: Sequence[float], device: torch.device) -> list[float]:
    """Sums over all ranks."""
    totals = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(totals)
    return totals.tolist()


def global_sum(value: float, device: torch.device) -> float:
    """Sum over all ranks."""
    return global_sums([value], device)[0]


@torch.no_grad()
def validation_loss(denoiser: Denoiser, factory: PackFactory, rank: int, world: int, device: torch.device) -> float:
    """Mean loss over the fixed packs of the validation set, each on one rank."""
    error = count = 0.0
    for position in range(rank, factory.config.data.validation_packs, world):
        pack = factory.build(factory.packs[position], position).to(device)
        error += float(denoiser(pack))
        count += pack.loss_elements
    return global_sum(error, device) / global_sum(count, device)


def write_samples(pipe: VideoPipeline, prompts: list[str], folder: Path, step: int) -> None:
    """One video of the trained window and its contact sheet for each prompt, always from seed 0.

    Where PyAV is not installed, as on some training machines, there are sheets alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pipe.set_progress_bar_config(disable=True)
    for number, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(0)
        output: Any = pipe(prompt=prompt, generator=generator, output_type="np")
        levels = (output.frames[0] * 255).round().astype("uint8")
        path = folder / f"step-{step:07d}-{number}.png"
        write_contact_sheet(path, levels, pipe.frame_rate)
        if find_spec("av") is not None:
            from data.video import write_video

            write_video(path.with_suffix(".mp4"), levels, pipe.frame_rate)


def train(config: RunConfig) -> None:
    """The whole run: build, resume, step, log, validate, save."""
    rank, world = dist.get_rank(), dist.get_world_size()
    run_dir, settings = Path(config.run_dir), config.train

    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    train_packs = PackFactory(config, codec, "train", packs_per_step=world * settings.accumulation)
    validation_packs = PackFactory(config, codec, "val")
    module = build_denoiser(config, codec)
    check_text(train_packs.source, module.tokenizer, module.text_encoder)
    engine = initialize(module, settings)
    codec.vae.to(engine.device, fast_dtype(engine.device))
    ema = EMA(engine, settings.ema_decay)
    start = resume(engine, ema, run_dir)
    if rank == 0:
        save_config(config, run_dir / "config.yaml")

    positions = rank_positions(start, settings.max_steps, settings.accumulation, rank, world)
    loader = load_ahead(train_packs.packs, positions, config.data.workers)
    items = zip(positions, loader, strict=True)
    progress = Progress(run_dir, start, settings.max_steps, show=rank == 0)

    def publish(done: int, folder: Path) -> None:
        """Write and measure the averaged weights of a checkpoint; all ranks take part."""
        pipe = averaged_pipeline(module, folder, codec, engine.device)
        if rank == 0:
            with replace_folder(run_dir / "model") as draft:
                pipe.to(torch.bfloat16).save_pretrained(draft)
                save_config(config, draft / "config.yaml")
        pipe.to(fast_dtype(engine.device))
        denoiser = Denoiser(pipe.transformer, pipe.tokenizer, pipe.text_encoder)
        score = validation_loss(denoiser, validation_packs, rank, world, engine.device)
        progress.record(done, {"validation/loss": score})
        progress.say(f"step {done}: validation loss {score:.4f}")
        progress.plot("train/loss", "validation/loss")
        if rank == 0:
            write_samples(pipe, list(config.data.sample_prompts), run_dir / "samples", done)
        dist.barrier()

    last = checkpoint_folder(run_dir, start)
    if start >= settings.max_steps and not is_newer(run_dir / "model", last):  # it was stopped in between
        publish(start, last)
    for step in range(start, settings.max_steps):
        began = time.perf_counter()
        set_learning_rate(engine, settings, step)
        batches = list(islice(items, settings.accumulation))
        packs = [train_packs.build(loaded, position) for position, loaded in batches]
        taken = [[item.view for item in loaded.items] for _, loaded in batches]
        count = global_sum(sum(pack.loss_elements for pack in packs), engine.device)
        error = 0.0
        for pack in packs:
            squared_error = engine(pack.to(engine.device))
            if not torch.isfinite(squared_error):
                raise FloatingPointError(f"the loss is not finite at step {step} on rank {rank}, clips {pack.clips}")
            # DeepSpeed averages over ranks and accumulation: undo it, the count is global
            engine.backward(squared_error * (world * settings.accumulation / count))
            engine.step()
            error += float(squared_error.detach())
        loss = global_sum(error, engine.device) / count
        ema.update(engine, step)

        done = step + 1
        costs = [0.0] * world
        costs[rank] = sum(cost(views, train_packs.plan.attention_cost) for views in taken)
        of_packs, of_views, left_out, *costs = global_sums(
            [
                sum(len(pack.made) for pack in packs),
                sum(view.tokens for views in taken for view in views),
                sum(loaded.left_out for _, loaded in batches),
                *costs,
            ],
            engine.device,
        )
        figures = {
            "loss": loss,
            "tokens/s": of_packs / (time.perf_counter() - began),
            "fill": of_packs / (config.data.token_budget * settings.accumulation * world),
            "padding": of_packs - of_views,
            "imbalance": imbalance(costs),
            "left_out": left_out,
        }
        progress.step(done, figures)
        if done == settings.max_steps or done % settings.save_every == 0:
            publish(done, save_checkpoint(engine, ema, run_dir, done))
    progress.close()


def dry_run(config: RunConfig) -> list[str]:
    """What `train` would be trained on, compute and hold, in lines; nothing is written, and no clip is read."""
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    codec = LatentCodec.from_pretrained(config.vae.path, dtype=torch.bfloat16)
    factory = PackFactory(config, codec, "train", packs_per_step=ranks * config.train.accumulation)
    PackFactory(config, codec, "val")  # whether it can be made
    module = build_denoiser(config, codec)
    check_text(factory.source, module.tokenizer, module.text_encoder)
    return [
        *data_report(config, factory.source, factory.plan, ranks),
        *footprint_lines(
            config.train,
            module.transformer,
            module.tokenizer,
            module.text_encoder,
            factory.source,
            factory.plan,
            ranks,
        ),
    ]


def main() -> int:
    """Exit code 2 for what the user got wrong."""
    parser = command_line(__doc__.splitlines()[0])
    parser.add_argument(
        "--dry-run", action="store_true", help="tell clips, packs, FLOPs and memory of the run, and stop"
    )
    args = parser.parse_intermixed_args()
    try:
        config = load_config(RunConfig, args.config, args.overrides)
        if args.dry_run:
            if int(os.environ.get("RANK", 0)) == 0:
                print("\n".join(dry_run(config)))
            return 0
        with process_group():
            train(config)
    except ValueError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
